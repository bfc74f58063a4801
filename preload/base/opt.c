/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opt: parsing of SEEP_OPTIONS, see opt.h.
 *
 * Invariant: `frozen` holds good options at every moment: defaults from the start, the
 * user's after opt_init(), after which its pages are read-only.
 */
#include "preload/base/opt.h"

#include <string.h>
#include <sys/mman.h>

#include "preload/base/fmt.h"
#include "preload/base/os.h"

#define VALUE_MAX_BYTES OPT_PATH_MAX
#define DEFAULT_SAMPLE	(512 * KIB)
#define DEFAULT_STACK	512
#define MAX_STACK	65535
#define MIN_SIGNAL	34
#define MAX_SIGNAL	64

static union {
	struct options options;
	char page[(sizeof(struct options) + OS_PAGE - 1) / OS_PAGE * OS_PAGE];
} frozen __attribute__((aligned(4096))) = {
	.options = { .mode = OPT_MODE_SAMPLED,
		     .sample = DEFAULT_SAMPLE,
		     .follow = true,
		     .stack = DEFAULT_STACK,
		     .signal = OPT_SIGNAL,
		     .exitcode = OPT_EXIT_LEAK },
};

void opt_defaults(struct options *o)
{
	memset(o, 0, sizeof(*o));
	o->mode = OPT_MODE_SAMPLED;
	o->sample = DEFAULT_SAMPLE;
	o->follow = true;
	o->stack = DEFAULT_STACK;
	o->signal = OPT_SIGNAL;
	o->exitcode = OPT_EXIT_LEAK;
}

const struct options *opt_get(void)
{
	return &frozen.options;
}

/* A decimal number with an optional K, M or G. */
static bool parse_size(const char *text, uint64_t max, uint64_t *out)
{
	uint64_t value = 0;
	unsigned shift = 0;

	if (*text < '0' || *text > '9')
		return false;
	for (; *text >= '0' && *text <= '9'; text++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
			return false;
	}
	if (*text == 'K' || *text == 'k')
		shift = 10;
	else if (*text == 'M' || *text == 'm')
		shift = 20;
	else if (*text == 'G' || *text == 'g')
		shift = 30;
	if (shift)
		text++;
	if (*text || value > (UINT64_MAX >> shift) || value << shift > max)
		return false;
	*out = value << shift;
	return true;
}

/* The place of value in a list of words that ends with NULL, or -1. */
static int parse_word(const char *value, const char *const *words)
{
	for (int i = 0; words[i]; i++)
		if (strcmp(value, words[i]) == 0)
			return i;
	return -1;
}

static bool set_word(const char *value, const char *const *words, int *out)
{
	int i = parse_word(value, words);

	if (i >= 0)
		*out = i;
	return i >= 0;
}

static bool set_flag(const char *value, bool *out)
{
	static const char *const words[] = { "off", "on", NULL };
	int i = parse_word(value, words);

	if (i >= 0)
		*out = i == 1;
	return i >= 0;
}

static bool set_path(const char *value, const char *cwd, char *out)
{
	size_t need;

	if (*value == '\0' || *value == '/' || !cwd || !*cwd)
		need = fmt_string(out, OPT_PATH_MAX, "%s", value);
	else
		need = fmt_string(out, OPT_PATH_MAX, "%s/%s", cwd, value);
	return need < OPT_PATH_MAX;
}

/* A pattern, see opt_expand(): each '%' of the directory that it is in stands for itself.
 */
static bool set_pattern(const char *value, const char *cwd, char *out)
{
	size_t n = 0;

	if (*value == '\0' || *value == '/' || !cwd || !*cwd)
		return set_path(value, NULL, out);
	for (; *cwd && n + 2 < OPT_PATH_MAX; cwd++) {
		if (*cwd == '%')
			out[n++] = '%';
		out[n++] = *cwd;
	}
	return !*cwd &&
	       n + fmt_string(out + n, OPT_PATH_MAX - n, "/%s", value) < OPT_PATH_MAX;
}

static bool set_number(const char *value, uint64_t min, uint64_t max, uint64_t *out)
{
	uint64_t v;

	if (!parse_size(value, max, &v) || v < min)
		return false;
	*out = v;
	return true;
}

static bool parse_hex(const char *text, uint64_t *out)
{
	uint64_t value = 0;
	unsigned digits = 0;

	if (text[0] == '0' && text[1] == 'x')
		text += 2;
	for (; *text; text++, digits++) {
		unsigned d = (unsigned char)*text;

		if (d >= '0' && d <= '9')
			d -= '0';
		else if ((d | 32) >= 'a' && (d | 32) <= 'f')
			d = (d | 32) - 'a' + 10;
		else
			return false;
		value = value << 4 | d;
	}
	*out = value;
	return digits > 0 && digits <= 16;
}

/* "tag16" and its like; word is terminated. */
static bool parse_pointer(const char *word, struct opt_pointer *out)
{
	static const struct {
		const char *name;
		enum opt_pointer_code code;
	} numbered[] = { { "tag", OPT_POINTER_MASK },
			 { "shift", OPT_POINTER_RIGHT },
			 { "left", OPT_POINTER_LEFT } };
	uint64_t n;

	*out = (struct opt_pointer){ .code = OPT_POINTER_LOW32 };
	if (strcmp(word, "low32") == 0)
		return true;
	out->code = OPT_POINTER_UNALIGNED;
	if (strcmp(word, "unaligned") == 0)
		return true;
	out->code = OPT_POINTER_XOR;
	if (strncmp(word, "xor", 3) == 0)
		return parse_hex(word + 3, &out->value);
	for (unsigned i = 0; i < sizeof(numbered) / sizeof(numbered[0]); i++) {
		size_t length = strlen(numbered[i].name);

		if (strncmp(word, numbered[i].name, length) != 0)
			continue;
		if (!parse_size(word + length, 32, &n) || n == 0)
			return false;
		out->code = numbered[i].code;
		out->value = out->code == OPT_POINTER_MASK ? UINT64_MAX >> n : n;
		return true;
	}
	return false;
}

/* A list of words with commas between. */
static bool set_pointers(const char *value, struct options *o)
{
	struct opt_pointer list[OPT_POINTERS_MAX] = { 0 };
	unsigned count = 0;
	char word[32];

	while (*value) {
		const char *end = strchr(value, ',');
		size_t length = end ? (size_t)(end - value) : strlen(value);

		if (length >= sizeof(word) || count == OPT_POINTERS_MAX)
			return false;
		memcpy(word, value, length);
		word[length] = '\0';
		if (!parse_pointer(word, &list[count++]))
			return false;
		value += length + (end != NULL);
	}
	memcpy(o->pointers, list, sizeof(list));
	o->npointers = count;
	return true;
}

/* 0, or a real-time signal that libc does not keep for itself. */
static bool set_signal(const char *value, int *out)
{
	uint64_t number;

	if (!parse_size(value, MAX_SIGNAL, &number) ||
	    (number != 0 && number < MIN_SIGNAL))
		return false;
	*out = (int)number;
	return true;
}

/* thread and size, with a comma between; nothing: neither. */
static bool set_labels(const char *value, struct options *o)
{
	bool thread = false, size = false;

	while (*value) {
		const char *end = strchr(value, ',');
		size_t length = end ? (size_t)(end - value) : strlen(value);

		if (length == 6 && strncmp(value, "thread", 6) == 0)
			thread = true;
		else if (length == 4 && strncmp(value, "size", 4) == 0)
			size = true;
		else
			return false;
		value += length + (end != NULL);
	}
	o->label_thread = thread;
	o->label_size = size;
	return true;
}

static const char *const mode_words[] = { "off", "sampled", "exact", NULL };
static const char *const leak_words[] = { "off", "exit", NULL };
static const char *const escape_words[] = { "off", "bound", "exact", NULL };
static const char *const thread_words[] = { "off", "on", "leak", NULL };
static const char *const huge_words[] = { "auto", "on", "off", NULL };

/* As apply() below, for what is kept of each site beyond its totals. */
static const char *apply_detail(struct options *o, const char *key, const char *value)
{
	if (strcmp(key, "lifetimes") == 0)
		return set_flag(value, &o->lifetimes) ? NULL : "must be on or off";
	if (strcmp(key, "labels") == 0)
		return set_labels(value, o) ? NULL : "must be a list of thread, size";
	return "";
}

/* As apply() below, for what only the leak check reads. */
static const char *apply_leak(struct options *o, const char *key, const char *value)
{
	if (strcmp(key, "pointers") == 0)
		return set_pointers(value, o) ? NULL
					      : "must be a list of tagN, shiftN, leftN, "
						"xorHEX, low32, unaligned";
	if (strcmp(key, "reachable") == 0)
		return set_flag(value, &o->reachable) ? NULL : "must be on or off";
	if (strcmp(key, "possible") == 0)
		return set_flag(value, &o->possible) ? NULL : "must be on or off";
	return apply_detail(o, key, value);
}

/* What is allowed, for the message; NULL: value was fine; "": the key is unknown. */
static const char *apply(struct options *o, const char *key, const char *value,
			 const char *cwd)
{
	int word;
	uint64_t number;

	if (strcmp(key, "mode") == 0) {
		if (!set_word(value, mode_words, &word))
			return "must be off, sampled or exact";
		o->mode = (enum opt_mode)word;
	} else if (strcmp(key, "sample") == 0) {
		if (!set_number(value, 1, (uint64_t)1 << 40, &number))
			return "must be a size such as 512K";
		o->sample = number;
	} else if (strcmp(key, "seed") == 0) {
		if (!set_number(value, 0, UINT64_MAX, &o->seed))
			return "must be a number";
	} else if (strcmp(key, "leak") == 0) {
		if (!set_word(value, leak_words, &word))
			return "must be off or exit";
		o->leak = (enum opt_leak)word;
	} else if (strcmp(key, "escape") == 0) {
		if (!set_word(value, escape_words, &word))
			return "must be off, bound or exact";
		o->escape = (enum opt_escape)word;
	} else if (strcmp(key, "hugepage") == 0) {
		if (!set_word(value, huge_words, &word))
			return "must be auto, on or off";
		o->hugepage = (enum opt_huge)word;
	} else if (strcmp(key, "threads") == 0) {
		if (!set_word(value, thread_words, &word))
			return "must be off, on or leak";
		o->threads = word != 0;
		o->thread_leaks = word == 2;
	} else if (strcmp(key, "follow") == 0) {
		return set_flag(value, &o->follow) ? NULL : "must be on or off";
	} else if (strcmp(key, "deepbind") == 0) {
		return set_flag(value, &o->deepbind) ? NULL : "must be on or off";
	} else if (strcmp(key, "stack") == 0) {
		if (!set_number(value, 1, MAX_STACK, &number))
			return "must be a number of frames from 1 to 65535";
		o->stack = (unsigned)number;
	} else if (strcmp(key, "exitcode") == 0) {
		if (!set_number(value, 0, 255, &number))
			return "must be a status from 0 to 255";
		o->exitcode = (int)number;
		o->has_exitcode = true;
	} else if (strcmp(key, "signal") == 0) {
		return set_signal(value, &o->signal)
			       ? NULL
			       : "must be a real-time signal from 34 to 64, or 0";
	} else if (strcmp(key, "out") == 0) {
		return set_pattern(value, cwd, o->out) ? NULL : "is too long";
	} else if (strcmp(key, "suppressions") == 0) {
		return set_path(value, cwd, o->suppressions) ? NULL : "is too long";
	} else if (strcmp(key, "recover") == 0) {
		return set_path(value, cwd, o->recover) ? NULL : "is too long";
	} else if (strcmp(key, "run") == 0) {
		return set_path(value, cwd, o->run) ? NULL : "is too long";
	} else {
		return apply_leak(o, key, value);
	}
	return NULL;
}

/* Copies one pair up to an unescaped ':' into buf; returns where the next begins, or NULL
 * at the end of the text. *out_fits false: it was cut. */
static const char *next_pair(const char *text, char *buf, size_t size, bool *out_fits)
{
	size_t n = 0;

	*out_fits = true;
	for (; *text && *text != ':'; text++) {
		if (*text == '\\' && (text[1] == ':' || text[1] == '\\'))
			text++;
		if (n + 1 < size)
			buf[n++] = *text;
		else
			*out_fits = false;
	}
	buf[n] = '\0';
	return *text == ':' ? text + 1 : NULL;
}

static void apply_pair(struct options *o, char *pair, const char *cwd,
		       void (*complain)(const char *, const char *))
{
	char *value = strchr(pair, '=');
	const char *wrong;

	if (!value) {
		complain(pair, "is not key=value");
		return;
	}
	*value++ = '\0';
	wrong = apply(o, pair, value, cwd);
	if (!wrong)
		return;
	if (*wrong == '\0') {
		complain(pair, "is not an option");
	} else {
		value[-1] = '=';
		complain(pair, wrong);
	}
}

/* The pair's buffer is longer than our usual frames: INIT context only. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wframe-larger-than="
void opt_parse(struct options *o, const char *text, const char *cwd,
	       void (*complain)(const char *pair, const char *reason))
{
	char pair[VALUE_MAX_BYTES + 32];

	while (text) {
		bool fits;

		text = next_pair(text, pair, sizeof(pair), &fits);
		if (!fits)
			complain(pair, "is too long");
		else if (*pair)
			apply_pair(o, pair, cwd, complain);
	}
}

static void complain_on_stderr(const char *pair, const char *reason)
{
	log_line("SEEP_OPTIONS: \"%.200s\" %s; ignored", pair, reason);
}

/* Most have none, and a filter may know no getcwd(). */
static bool may_have_relative(const char *text)
{
	static const char *const keys[] = { "out=", "suppressions=", "recover=", "run=" };

	for (size_t i = 0; text && i < ARRAY_LEN(keys); i++)
		for (const char *p = text; (p = strstr(p, keys[i])); p += strlen(keys[i]))
			if (p[strlen(keys[i])] != '/')
				return true;
	return false;
}

void opt_init(const char *text)
{
	char cwd[OPT_PATH_MAX];
	long n = 0;

	if (may_have_relative(text))
		n = os_call(SYS_getcwd, (long)cwd, sizeof(cwd), 0, 0, 0, 0);
	if (n <= 0 || cwd[0] != '/')
		cwd[0] = '\0';
	opt_parse(&frozen.options, text, cwd, complain_on_stderr);
	os_call(SYS_mprotect, (long)&frozen, sizeof(frozen), PROT_READ, 0, 0, 0);
}
#pragma GCC diagnostic pop

static bool expand_one(struct out *o, char what, const char *program, int pid)
{
	switch (what) {
	case '%':
		out_str(o, "%");
		return false;
	case 'e':
		out_str(o, program);
		return false;
	case 'p':
		out_format(o, "%d", pid);
		return true;
	default: /* kept as it is: a pattern is no place to fail */
		out_format(o, "%%%c", what);
		return false;
	}
}

bool opt_expand(const char *pattern, const char *program, int pid, char *buf, size_t size)
{
	struct out o;
	bool has_pid = false;

	out_init(&o, buf, size - 1, NULL, NULL);
	for (; *pattern; pattern++) {
		if (*pattern == '%' && pattern[1])
			has_pid |= expand_one(&o, *++pattern, program, pid);
		else
			out_bytes(&o, pattern, 1);
	}
	if (!has_pid)
		out_format(&o, ".%d", pid);
	buf[o.used] = '\0';
	return o.lost == 0;
}
