/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dwarf_file: finding the file of a build-id and its debug information, through libdwfl;
 * symbols of code.
 *
 * A file is looked for at its path, in the directories given (DIR/name, DIR/BUILD-ID/name
 * and DIR/path), below .build-id in these and in /usr/lib/debug, in debuginfod's cache,
 * and on its servers when DEBUGINFOD_URLS is set.
 */
#include <dlfcn.h>
#include <elfutils/libdwelf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "tools/lib/dwarf_int.h"
#include "tools/lib/say.h"

/* ---- the file ---- */

static bool has_build_id(Elf *elf, const char *hex)
{
	const void *bytes;
	ssize_t n = dwelf_elf_gnu_build_id(elf, &bytes);

	if (n <= 0 || strlen(hex) != 2 * (size_t)n)
		return false;
	for (ssize_t i = 0; i < n; i++) {
		char two[3];

		snprintf(two, sizeof(two), "%02x", ((const unsigned char *)bytes)[i]);
		if (strncasecmp(two, hex + 2 * i, 2) != 0)
			return false;
	}
	return true;
}

/* Only regular files: a path in a profile may name anything. */
static int open_regular(const char *path, int64_t not_after)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    (not_after == 0 ||
	     st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec <= not_after))
		return fd;
	close(fd);
	return -1;
}

static bool is_wanted_file(int fd, const char *build_id)
{
	Elf *elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	bool ok = elf && elf_kind(elf) == ELF_K_ELF && gelf_getclass(elf) == ELFCLASS64 &&
		  (!*build_id || has_build_id(elf, build_id));

	elf_end(elf);
	return ok;
}

/* The whole file has this checksum; 0: none is asked for. */
static bool has_checksum(int fd, GElf_Word wanted)
{
	unsigned char bytes[16384];
	uLong sum = crc32(0, NULL, 0);
	off_t at = 0;
	ssize_t n;

	if (wanted == 0)
		return true;
	while ((n = pread(fd, bytes, sizeof(bytes), at)) > 0) {
		sum = crc32(sum, bytes, (uInt)n);
		at += n;
	}
	return sum == wanted;
}

/* LIST is as dwarf_new() makes it: '+' and names with colons between, of which those that
 * begin with a slash are roots, and the others are beside the file. */
static int find_linked(const char *list, const char *file, const char *link,
		       GElf_Word checksum, char **out)
{
	const char *slash = strrchr(file, '/');
	int directory = slash ? (int)(slash - file) : 0;

	for (const char *at = list + 1; at; at = strchr(at, ':'), at = at ? at + 1 : at) {
		int n = (int)strcspn(at, ":"), fd;
		char *path = at[0] == '/'
				     ? format_string("%.*s%.*s/%s", n, at, directory,
						     file, link)
				     : format_string("%.*s/%.*s%s%s", directory, file, n,
						     at, n ? "/" : "", link);

		fd = strcmp(path, file) != 0 ? open_regular(path, 0) : -1;
		if (fd >= 0 && has_checksum(fd, checksum)) {
			*out = path;
			return fd;
		}
		if (fd >= 0)
			close(fd);
		free(path);
	}
	return -1;
}

/* Below .build-id in the roots of LIST. */
static int find_by_id(const char *list, const char *id, char **out)
{
	for (const char *at = list + 1; at; at = strchr(at, ':'), at = at ? at + 1 : at) {
		char *path;
		int fd;

		if (at[0] != '/')
			continue;
		path = format_string("%.*s/.build-id/%.2s/%s.debug",
				     (int)strcspn(at, ":"), at, id, id + 2);
		fd = open_regular(path, 0);
		if (fd >= 0 && is_wanted_file(fd, id)) {
			*out = path;
			return fd;
		}
		if (fd >= 0)
			close(fd);
		free(path);
	}
	return -1;
}

/* In hexadecimal, allocated; NULL: it has none. */
static char *id_of(Dwfl_Module *mod)
{
	const unsigned char *bytes;
	GElf_Addr address;
	int n = dwfl_module_build_id(mod, &bytes, &address);
	char *id;

	if (n < 2)
		return NULL;
	id = allocate(2 * (size_t)n + 1);
	for (int i = 0; i < n; i++)
		snprintf(id + 2 * i, 3, "%02x", bytes[i]);
	return id;
}

/* The separate debug information of the module's file. */
static int find_separate(const struct dwarf_module *m, const char *file, const char *link,
			 GElf_Word checksum, char **out)
{
	char *id = id_of(m->module);
	int fd = id ? find_by_id(m->owner->debuginfo_path, id, out) : -1;

	free(id);
	if (fd < 0 && link && link[0] == '/') {
		fd = open_regular(link, 0);
		*out = fd >= 0 ? format_string("%s", link) : NULL;
	} else if (fd < 0 && link && *link) {
		fd = find_linked(m->owner->debuginfo_path, file, link, checksum, out);
	}
	return fd;
}

/* libdwfl's own function would load libdebuginfod and the thirty libraries that it needs
 * for every module without debug information, where no server is to be asked. */
static int find_debuginfo(Dwfl_Module *mod, void **user, const char *name,
			  Dwarf_Addr base, const char *file, const char *link,
			  GElf_Word checksum, char **out)
{
	const char *urls = getenv("DEBUGINFOD_URLS");
	struct dwarf_module *m = *user;
	int fd;

	if (m && file) {
		fd = m->separate_fd;
		*out = m->separate_path;
		m->separate_fd = -1;
		m->separate_path = NULL;
		if (fd < 0)
			fd = find_separate(m, file, link, checksum, out);
		if (fd >= 0 || !urls || !*urls)
			return fd;
	}
	if (m && !(urls && *urls)) { /* what several files share, by .gnu_debugaltlink */
		fd = dwfl_build_id_find_debuginfo(mod, user, name, base, file, link,
						  checksum, out);
		if (fd >= 0 || !link || !*link)
			return fd;
	}
	return dwfl_standard_find_debuginfo(mod, user, name, base, file, link, checksum,
					    out);
}

static bool attach(struct dwarf_module *m, const char *path, const char *build_id,
		   int64_t not_after)
{
	static const Dwfl_Callbacks callbacks = {
		.find_elf = dwfl_build_id_find_elf,
		.find_debuginfo = find_debuginfo,
		.section_address = dwfl_offline_section_address,
	};
	/* libdw writes to its copy through the pointer that it is given. */
	Dwfl_Callbacks *own;
	int fd = open_regular(path, *build_id ? 0 : not_after);

	if (fd < 0 || !is_wanted_file(fd, build_id)) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	own = arena_alloc(&m->owner->arena, sizeof(*own));
	*own = callbacks;
	own->debuginfo_path = &m->owner->debuginfo_path;
	m->dwfl = dwfl_begin(own);
	m->module = m->dwfl ? dwfl_report_offline(m->dwfl, path, path, fd) : NULL;
	if (!m->module)
		close(fd);
	if (m->module) {
		void **user;

		dwfl_module_info(m->module, &user, NULL, NULL, NULL, NULL, NULL, NULL);
		*user = m;
	}
	if (m->module && dwfl_report_end(m->dwfl, NULL, NULL) == 0)
		m->elf = dwfl_module_getelf(m->module, &m->file_bias);
	if (m->elf)
		return true;
	dwfl_end(m->dwfl);
	m->dwfl = NULL;
	return false;
}

/* A file that strip or objcopy left with debug information alone: its code sections have
 * no contents. */
static bool is_debug_only(Elf *elf)
{
	Elf_Scn *scn = NULL;

	while ((scn = elf_nextscn(elf, scn)) != NULL) {
		GElf_Shdr sh;

		if (gelf_getshdr(scn, &sh) && (sh.sh_flags & SHF_EXECINSTR))
			return sh.sh_type == SHT_NOBITS;
	}
	return false;
}

static bool attach_and_free(struct dwarf_module *m, char *path, const char *build_id,
			    int64_t not_after)
{
	bool ok = path && attach(m, path, build_id, not_after);

	free(path);
	return ok;
}

static bool attach_in(struct dwarf_module *m, const char *directory, const char *path,
		      const char *id, int64_t not_after)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

	if (attach_and_free(m, format_string("%s/%s", directory, name), id, not_after) ||
	    attach_and_free(m, format_string("%s/%s", directory, path), id, not_after))
		return true;
	return *id && attach_and_free(m, format_string("%s/%s/%s", directory, id, name),
				      id, not_after);
}

static bool attach_by_id(struct dwarf_module *m, const char *directory, const char *id)
{
	static const char *const suffixes[] = { "", ".debug" };

	for (size_t i = 0; i < 2; i++)
		if (attach_and_free(m,
				    format_string("%s/.build-id/%.2s/%s%s", directory, id,
						  id + 2, suffixes[i]),
				    id, 0))
			return true;
	return false;
}

static char *debuginfod_cache(const char *build_id)
{
	const char *cache = getenv("DEBUGINFOD_CACHE_PATH");
	const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

	if (cache && *cache)
		return format_string("%s/%s/debuginfo", cache, build_id);
	if (xdg && *xdg)
		return format_string("%s/debuginfod_client/%s/debuginfo", xdg, build_id);
	if (home && *home)
		return format_string("%s/.cache/debuginfod_client/%s/debuginfo", home,
				     build_id);
	return NULL;
}

/* Asks the servers that the environment names; where it names none, nobody is asked. */
static char *debuginfod_download(const char *build_id)
{
	const char *urls = getenv("DEBUGINFOD_URLS");
	void *library = urls && *urls ? dlopen("libdebuginfod.so.1", RTLD_LAZY) : NULL;
	void *(*begin)(void);
	void (*end)(void *);
	int (*find)(void *, const unsigned char *, int, char **);
	char *path = NULL;
	void *client;
	int fd;

	if (!library)
		return NULL;
	*(void **)&begin = dlsym(library, "debuginfod_begin");
	*(void **)&end = dlsym(library, "debuginfod_end");
	*(void **)&find = dlsym(library, "debuginfod_find_debuginfo");
	client = begin && end && find ? begin() : NULL;
	if (!client)
		return NULL;
	/* length 0: the build-id is in hexadecimal */
	fd = find(client, (const unsigned char *)build_id, 0, &path);
	if (fd >= 0)
		close(fd);
	else
		path = NULL;
	end(client);
	return path;
}

bool dwarf_file_open(struct dwarf_module *m, const char *path, const char *build_id,
		     int64_t not_after)
{
	const char *const *directories = m->owner->directories;
	bool has_id = strlen(build_id) > 2 &&
		      strspn(build_id, "0123456789abcdefABCDEF") == strlen(build_id);
	const char *id = has_id ? build_id : "";
	bool found;

	elf_version(EV_CURRENT);
	if (path[0] == '[')
		return false;
	found = attach(m, path, id, not_after);
	for (size_t i = 0; !found && directories && directories[i]; i++)
		found = attach_in(m, directories[i], path, id, not_after) ||
			(has_id && attach_by_id(m, directories[i], id));
	if (!found && has_id)
		found = attach_by_id(m, "/usr/lib/debug", id) ||
			attach_and_free(m, debuginfod_cache(id), id, 0) ||
			attach_and_free(m, debuginfod_download(id), id, 0);
	if (found)
		m->segments_moved = is_debug_only(m->elf);
	return found;
}

static bool has_section(Elf *elf, const char *wanted)
{
	Elf_Scn *scn = NULL;
	size_t names;

	if (elf_getshdrstrndx(elf, &names) != 0)
		return false;
	while ((scn = elf_nextscn(elf, scn)) != NULL) {
		GElf_Shdr sh;
		const char *name = gelf_getshdr(scn, &sh)
					   ? elf_strptr(elf, names, sh.sh_name)
					   : NULL;

		if (name && strcmp(name, wanted) == 0 && sh.sh_type != SHT_NOBITS)
			return true;
	}
	return false;
}

/* Where the first segment is, 0: there is none. */
static uint64_t first_address(Elf *elf)
{
	size_t n;

	if (elf_getphdrnum(elf, &n) != 0)
		return 0;
	for (size_t i = 0; i < n; i++) {
		GElf_Phdr ph;

		if (gelf_getphdr(elf, (int)i, &ph) && ph.p_type == PT_LOAD)
			return ph.p_vaddr;
	}
	return 0;
}

static void unpack_file(struct dwarf_module *m, Elf *elf)
{
	size_t size;
	const char *bytes = elf_rawfile(elf, &size);

	if (bytes && first_address(elf) == first_address(m->elf))
		m->dwarf = dwarf_unpack(bytes, size, &m->image);
}

/* Compressed debug information of the file, or for it. */
static void unpack_debug(struct dwarf_module *m)
{
	const char *path, *link;
	GElf_Word checksum = 0;
	Elf *separate;

	dwfl_module_info(m->module, NULL, NULL, NULL, NULL, NULL, &path, NULL);
	if (has_section(m->elf, ".debug_info")) {
		unpack_file(m, m->elf);
		return;
	}
	link = dwelf_elf_gnu_debuglink(m->elf, &checksum);
	m->separate_fd = find_separate(m, path, link, checksum, &m->separate_path);
	if (m->separate_fd < 0)
		return;
	separate = elf_begin(m->separate_fd, ELF_C_READ_MMAP, NULL);
	if (separate && has_section(separate, ".debug_info"))
		unpack_file(m, separate);
	elf_end(separate);
}

void dwarf_file_open_debug(struct dwarf_module *m)
{
	Dwarf_Addr bias = 0;

	unpack_debug(m);
	if (m->dwarf) /* at the file's addresses */
		return;
	m->dwarf = dwfl_module_getdwarf(m->module, &bias);
	m->debug_bias = m->file_bias - bias;
}

/* ---- symbols ---- */

static int by_address(const void *a, const void *b)
{
	const struct file_symbol *x = a, *y = b;

	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	/* the best of equal ones last: sized, global, then the shorter name */
	if ((x->size > 0) != (y->size > 0))
		return x->size > 0 ? 1 : -1;
	if (x->global != y->global)
		return x->global ? 1 : -1;
	return strlen(x->name) < strlen(y->name)   ? 1
	       : strlen(x->name) > strlen(y->name) ? -1
						   : strcmp(x->name, y->name);
}

static bool is_code(const GElf_Sym *sym, GElf_Word section)
{
	int type = GELF_ST_TYPE(sym->st_info);

	return section != SHN_UNDEF && section != SHN_ABS &&
	       (type == STT_FUNC || type == STT_GNU_IFUNC);
}

/* .symtab or .dynsym of the file, of its debug information, and of .gnu_debugdata:
 * libdwfl puts them together. */
static void make_symbols(struct dwarf_module *m)
{
	int n = dwfl_module_getsymtab(m->module);

	m->symbols_made = true;
	if (n <= 0)
		return;
	m->symbols = allocate((size_t)n * sizeof(*m->symbols));
	for (int i = 1; i < n; i++) {
		GElf_Sym sym;
		GElf_Addr address;
		GElf_Word section;
		const char *name = dwfl_module_getsym_info(m->module, i, &sym, &address,
							   &section, NULL, NULL);

		if (!name || !*name || !is_code(&sym, section))
			continue;
		m->symbols[m->nsymbols++] = (struct file_symbol){
			.address = address - m->file_bias,
			.size = sym.st_size,
			.name = name,
			.global = GELF_ST_BIND(sym.st_info) != STB_LOCAL,
		};
	}
	qsort(m->symbols, m->nsymbols, sizeof(*m->symbols), by_address);
}

const struct file_symbol *dwarf_file_symbol(struct dwarf_module *m, uint64_t address)
{
	size_t low = 0, high;

	if (!m->symbols_made)
		make_symbols(m);
	for (high = m->nsymbols; low < high;) {
		size_t middle = low + (high - low) / 2;

		if (m->symbols[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	for (int steps = 0; low > 0 && steps < 8; steps++) {
		const struct file_symbol *s = &m->symbols[--low];

		if (address - s->address < s->size || (s->size == 0 && steps == 0))
			return s;
	}
	return NULL;
}
