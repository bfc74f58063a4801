/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter: see filter.h. An interpreter of the classic packet filter's language, as far as
 * the kernel lets seccomp use it; what it does not let through cannot be here.
 */
#include "preload/base/filter.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>

#include "preload/base/atomic.h"
#include "preload/base/meta.h"
#include "preload/base/os.h"

/* In places where a sanitizer knows of no thread. */
#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))
#define BY_REGISTER 0x08 /* BPF_X, of an operand */

uint32_t os_filters; /* atomic; how many are in force */

static struct {
	struct sock_filter *next; /* memory for one more */
	struct {
		const struct sock_filter *code;
		size_t length;
	} list[FILTER_MOST];
	bool strict;		   /* written before os_filters */
	enum filter_others others; /* atomic; any thread */
	enum { BEFORE_NOT_LOOKED, BEFORE_NONE, BEFORE_SOME } before; /* likewise */
} filters;

bool filter_prepare(void)
{
	if (os_filters >= FILTER_MOST - 1)
		return false;
	if (!filters.next)
		filters.next = meta_alloc(FILTER_LENGTH * sizeof(*filters.next),
					  sizeof(*filters.next), META_OTHER);
	return filters.next != NULL;
}

void filter_add(const struct sock_filter *code, size_t length)
{
	const uint32_t at = os_filters;

	if (length == 0 || length > FILTER_LENGTH || !filters.next)
		return;
	memcpy(filters.next, code, length * sizeof(*code));
	filters.list[at].code = filters.next;
	filters.list[at].length = length;
	filters.next = NULL;
	atomic_store_release(&os_filters, at + 1);
}

void filter_add_strict(void)
{
	filters.strict = true;
	atomic_store_release(&os_filters, os_filters + 1);
}

/* ---- those that are not known ---- */

void filter_add_unknown(void)
{
	atomic_store_relaxed(&filters.others, FILTER_UNKNOWN_SINCE);
}

static bool read_number(const char *line, const char *key, uint32_t *out)
{
	const size_t length = strlen(key);

	if (strncmp(line, key, length) != 0)
		return false;
	*out = 0;
	for (const char *p = line + length; *p >= '0' && *p <= '9'; p++)
		*out = *out * 10 + (uint32_t)(*p - '0');
	return true;
}

struct counts {
	uint32_t mode;	  /* SECCOMP_MODE_FILTER: there are filters */
	uint32_t filters; /* Linux 5.9 */
	bool has_mode, has_filters;
};

static void read_counts(int fd, struct counts *out)
{
	char line[32], chunk[256];
	size_t n = 0;
	long got;

	while ((got = os_read(fd, chunk, sizeof(chunk))) > 0)
		for (long i = 0; i < got; i++) {
			if (chunk[i] != '\n') {
				if (n < sizeof(line) - 1)
					line[n++] = chunk[i];
				continue;
			}
			line[n] = '\0';
			n = 0;
			out->has_mode |= read_number(line, "Seccomp:\t", &out->mode);
			out->has_filters |=
				read_number(line, "Seccomp_filters:\t", &out->filters);
		}
}

/* The kernel counts those of a thread. What cannot be looked at may be there. */
static bool are_all_known(void)
{
	struct counts c = { 0 };
	int fd = os_open("/proc/thread-self/status", O_RDONLY, 0);

	if (fd < 0)
		return false;
	read_counts(fd, &c);
	os_close(fd);
	if (!c.has_mode || c.mode != SECCOMP_MODE_FILTER)
		return c.has_mode;
	return c.has_filters && c.filters <= atomic_load_acquire(&os_filters);
}

enum filter_others filter_others(void)
{
	enum filter_others found = atomic_load_relaxed(&filters.others), now;

	if (found != FILTER_NOT_LOOKED)
		return found;
	now = are_all_known() ? FILTER_ALL_KNOWN : FILTER_UNKNOWN_BEFORE;
	/* Unless one has come since. */
	return atomic_cas_relaxed(&filters.others, &found, now) ? now : found;
}

#define STATUS_OFFSET 768 /* less than what stands before the line in question */
#define STATUS_BYTES  640

/* Every start of a program pays for this: only the part of the file is looked at that
 * has the line, unless that is elsewhere. */
static uint32_t mode_of_thread(int fd)
{
	char text[STATUS_BYTES];
	struct counts c = { 0 };
	long n = os_call(SYS_pread64, fd, (long)text, sizeof(text) - 1, STATUS_OFFSET, 0,
			 0);

	for (long i = 0; i + 9 < n; i++) {
		if (text[i] != '\n' || text[i + 1] != 'S' || text[i + 4] != 'c')
			continue;
		text[n] = '\0';
		if (read_number(text + i + 1, "Seccomp:\t", &c.mode))
			return c.mode;
	}
	read_counts(fd, &c);
	return c.mode;
}

bool filter_from_before(void)
{
	int fd;

	if (atomic_load_relaxed(&filters.before) == BEFORE_NOT_LOOKED) {
		fd = os_open("/proc/thread-self/status", O_RDONLY, 0);
		atomic_store_relaxed(&filters.before,
				     fd >= 0 && mode_of_thread(fd) !=
							     SECCOMP_MODE_DISABLED
					     ? BEFORE_SOME
					     : BEFORE_NONE);
		if (fd >= 0)
			os_close(fd);
	}
	return atomic_load_relaxed(&filters.before) == BEFORE_SOME;
}

#define IDS_BYTES 512 /* of the file: more than stands before them */

bool filter_read_ids(struct filter_ids *out)
{
	char text[IDS_BYTES];
	uint32_t pid = 0, tid = 0, ppid = 0;
	int fd = os_open("/proc/thread-self/status", O_RDONLY, 0);
	long n = fd < 0 ? 0 : os_read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		os_close(fd);
	text[n > 0 ? n : 0] = '\0';
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (read_number(line, "Tgid:\t", &pid) ||
		    read_number(line, "Pid:\t", &tid) ||
		    read_number(line, "PPid:\t", &ppid))
			continue;
	}
	*out = (struct filter_ids){ (int)pid, (int)tid, (int)ppid };
	return pid > 0 && tid > 0;
}

/* ---- what one says ---- */

struct machine {
	uint32_t a, x, memory[BPF_MEMWORDS];
};

static NO_SANITIZE uint32_t load(const struct machine *m, const struct sock_filter *i,
				 const struct seccomp_data *data)
{
	uint32_t word = 0;

	switch (BPF_MODE(i->code)) {
	case BPF_IMM:
		return i->k;
	case BPF_LEN:
		return sizeof(*data);
	case BPF_MEM:
		return m->memory[i->k % BPF_MEMWORDS];
	case BPF_ABS:
		if (i->k <= sizeof(*data) - sizeof(word))
			memcpy(&word, (const char *)data + i->k, sizeof(word));
		return word;
	default:
		return 0;
	}
}

static NO_SANITIZE uint32_t compute(uint16_t op, uint32_t a, uint32_t b)
{
	switch (op) {
	case BPF_ADD:
		return a + b;
	case BPF_SUB:
		return a - b;
	case BPF_MUL:
		return a * b;
	case BPF_DIV:
		return b ? a / b : 0;
	case BPF_AND:
		return a & b;
	case BPF_OR:
		return a | b;
	case BPF_XOR:
		return a ^ b;
	case BPF_LSH:
		return b < 32 ? a << b : 0;
	case BPF_RSH:
		return b < 32 ? a >> b : 0;
	default:
		return 0u - a; /* BPF_NEG */
	}
}

static NO_SANITIZE bool compare(uint16_t op, uint32_t a, uint32_t b)
{
	switch (op) {
	case BPF_JEQ:
		return a == b;
	case BPF_JGT:
		return a > b;
	case BPF_JGE:
		return a >= b;
	default:
		return (a & b) != 0; /* BPF_JSET */
	}
}

/* Everything but jumps and returns. */
static NO_SANITIZE void step(struct machine *m, const struct sock_filter *i,
			     const struct seccomp_data *data)
{
	const uint32_t operand = i->code & BY_REGISTER ? m->x : i->k;

	switch (BPF_CLASS(i->code)) {
	case BPF_LD:
		m->a = load(m, i, data);
		break;
	case BPF_LDX:
		m->x = load(m, i, data);
		break;
	case BPF_ST:
		m->memory[i->k % BPF_MEMWORDS] = m->a;
		break;
	case BPF_STX:
		m->memory[i->k % BPF_MEMWORDS] = m->x;
		break;
	case BPF_ALU:
		m->a = compute(BPF_OP(i->code), m->a, operand);
		break;
	default: /* BPF_MISC */
		if (BPF_MISCOP(i->code) == BPF_TAX)
			m->x = m->a;
		else
			m->a = m->x;
	}
}

static NO_SANITIZE uint32_t run(const struct sock_filter *code, size_t length,
				const struct seccomp_data *data)
{
	struct machine m;

	memset(&m, 0, sizeof(m));
	for (size_t at = 0; at < length; at++) {
		const struct sock_filter *i = &code[at];

		if (BPF_CLASS(i->code) == BPF_RET)
			return BPF_RVAL(i->code) == BPF_A ? m.a : i->k;
		if (BPF_CLASS(i->code) != BPF_JMP)
			step(&m, i, data);
		else if (BPF_OP(i->code) == BPF_JA)
			at += i->k;
		else if (compare(BPF_OP(i->code), m.a,
				 i->code & BY_REGISTER ? m.x : i->k))
			at += i->jt;
		else
			at += i->jf;
	}
	return SECCOMP_RET_ALLOW;
}

/* Unknown actions kill, says the kernel. */
static NO_SANITIZE bool is_deadly(uint32_t result)
{
	switch (result & SECCOMP_RET_ACTION_FULL) {
	case SECCOMP_RET_ALLOW:
	case SECCOMP_RET_LOG:
	case SECCOMP_RET_ERRNO:
	case SECCOMP_RET_TRACE:
	case SECCOMP_RET_USER_NOTIF:
		return false;
	default:
		return true; /* a SIGSYS with a handler, too */
	}
}

static NO_SANITIZE bool is_in_strict(long nr)
{
	return nr == SYS_read || nr == SYS_write || nr == SYS_exit ||
	       nr == SYS_rt_sigreturn;
}

NO_SANITIZE bool os_refused(long nr, const long args[6])
{
	struct seccomp_data data = { .nr = (int)nr, .arch = AUDIT_ARCH_X86_64 };
	const uint32_t n = atomic_load_acquire(&os_filters);

	for (int i = 0; i < 6; i++)
		data.args[i] = (uint64_t)args[i];
	if (filters.strict && !is_in_strict(nr))
		return true;
	for (uint32_t i = 0; i < FILTER_MOST && i < n; i++)
		if (is_deadly(run(filters.list[i].code, filters.list[i].length, &data)))
			return true;
	return false;
}
