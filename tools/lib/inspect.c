/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inspect: see inspect.h. The file is not trusted: offsets are checked.
 */
#include "tools/lib/inspect.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/lib/say.h"

#define MAX_SCRIPT_DEPTH 4

struct image {
	const char *bytes;
	size_t size;
};

char *inspect_find(const char *name)
{
	const char *path = getenv("PATH");
	int error = ENOENT;

	if (strchr(name, '/')) {
		if (access(name, F_OK) != 0) {
			errno = ENOENT;
			return NULL;
		}
		errno = EACCES;
		return access(name, X_OK) == 0 ? format_string("%s", name) : NULL;
	}
	for (path = path ? path : "/bin:/usr/bin"; path;) {
		const char *end = strchrnul(path, ':');
		char *file = format_string("%.*s/%s", end > path ? (int)(end - path) : 1,
					   end > path ? path : ".", name);
		struct stat st;

		if (stat(file, &st) == 0 && S_ISREG(st.st_mode)) {
			if (access(file, X_OK) == 0)
				return file;
			error = EACCES;
		}
		free(file);
		path = *end ? end + 1 : NULL;
	}
	errno = error;
	return NULL;
}

static bool inside(const struct image *im, uint64_t offset, uint64_t size)
{
	return offset <= im->size && size <= im->size - offset;
}

static bool map_file(const char *path, struct image *im)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p = MAP_FAILED;

	if (fd < 0)
		return false;
	if (fstat(fd, &st) == 0 && st.st_size > 0)
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return false;
	im->bytes = p;
	im->size = (size_t)st.st_size;
	return true;
}

static const Elf64_Phdr *find_phdr(const struct image *im, const Elf64_Ehdr *h,
				   uint32_t type)
{
	if (h->e_phentsize != sizeof(Elf64_Phdr) ||
	    !inside(im, h->e_phoff, (uint64_t)h->e_phnum * sizeof(Elf64_Phdr)))
		return NULL;
	for (int i = 0; i < h->e_phnum; i++) {
		const Elf64_Phdr *ph = (const void *)(im->bytes + h->e_phoff);

		if (ph[i].p_type == type && inside(im, ph[i].p_offset, ph[i].p_filesz))
			return &ph[i];
	}
	return NULL;
}

/* Section i, if it refers to a table of names; that in *out_names. */
static const Elf64_Shdr *section_with_names(const struct image *im, const Elf64_Ehdr *h,
					    int i, const Elf64_Shdr **out_names)
{
	const Elf64_Shdr *sh = (const void *)(im->bytes + h->e_shoff), *names;

	if (sh[i].sh_link >= h->e_shnum || !inside(im, sh[i].sh_offset, sh[i].sh_size))
		return NULL;
	names = &sh[sh[i].sh_link];
	if (!inside(im, names->sh_offset, names->sh_size) || names->sh_size == 0 ||
	    im->bytes[names->sh_offset + names->sh_size - 1] != '\0')
		return NULL;
	*out_names = names;
	return &sh[i];
}

static int count_sections(const struct image *im, const Elf64_Ehdr *h)
{
	if (h->e_shentsize != sizeof(Elf64_Shdr) ||
	    !inside(im, h->e_shoff, (uint64_t)h->e_shnum * sizeof(Elf64_Shdr)))
		return 0;
	return h->e_shnum;
}

/* The name of a dynamic symbol that tells something, by section .dynsym. */
static bool defines(const struct image *im, const Elf64_Ehdr *h, const char *name)
{
	int n = count_sections(im, h);

	for (int i = 0; i < n; i++) {
		const Elf64_Shdr *str, *sh = section_with_names(im, h, i, &str);
		const Elf64_Sym *sym;

		if (!sh || (sh->sh_type != SHT_DYNSYM && sh->sh_type != SHT_SYMTAB))
			continue;
		sym = (const void *)(im->bytes + sh->sh_offset);
		for (size_t k = 0; k < sh->sh_size / sizeof(*sym); k++)
			if (sym[k].st_shndx != SHN_UNDEF &&
			    sym[k].st_name < str->sh_size &&
			    strcmp(im->bytes + str->sh_offset + sym[k].st_name, name) ==
				    0)
				return true;
	}
	return false;
}

/* Does it ask the loader for a library whose name begins so? */
static bool needs(const struct image *im, const Elf64_Ehdr *h, const char *library)
{
	int n = count_sections(im, h);

	for (int i = 0; i < n; i++) {
		const Elf64_Shdr *str, *sh = section_with_names(im, h, i, &str);
		const Elf64_Dyn *d;

		if (!sh || sh->sh_type != SHT_DYNAMIC)
			continue;
		d = (const void *)(im->bytes + sh->sh_offset);
		for (size_t k = 0; k < sh->sh_size / sizeof(*d); k++)
			if (d[k].d_tag == DT_NEEDED && d[k].d_un.d_val < str->sh_size &&
			    strncmp(im->bytes + str->sh_offset + d[k].d_un.d_val, library,
				    strlen(library)) == 0)
				return true;
	}
	return false;
}

static const char *sanitizer_in(const struct image *im, const Elf64_Ehdr *h)
{
	if (defines(im, h, "__asan_init") || needs(im, h, "libasan.so") ||
	    needs(im, h, "libclang_rt.asan"))
		return "AddressSanitizer";
	if (defines(im, h, "__tsan_init") || needs(im, h, "libtsan.so"))
		return "ThreadSanitizer";
	if (defines(im, h, "__msan_init"))
		return "MemorySanitizer";
	if (defines(im, h, "__lsan_init") || needs(im, h, "liblsan.so"))
		return "LeakSanitizer";
	return NULL;
}

static enum inspect_result look_at_elf(const struct image *im, char **out_why)
{
	const Elf64_Ehdr *h = (const void *)im->bytes;
	const Elf64_Phdr *interp;
	const char *sanitizer;

	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_machine != EM_X86_64) {
		*out_why = format_string(
			"is not an x86-64 program: only 64-bit ones can be profiled");
		return INSPECT_NO_HELP;
	}
	interp = find_phdr(im, h, PT_INTERP);
	if (!interp && defines(im, h, "__tls_get_addr"))
		return INSPECT_OK; /* the loader itself, with a program as its argument */
	if (!interp) {
		*out_why =
			format_string("is statically linked: nothing can be preloaded; "
				      "link it dynamically");
		return INSPECT_STATIC;
	}
	if (memmem(im->bytes + interp->p_offset, interp->p_filesz, "ld-musl", 7)) {
		*out_why = format_string("uses musl: Seep needs glibc");
		return INSPECT_NO_HELP;
	}
	sanitizer = sanitizer_in(im, h);
	if (sanitizer) {
		*out_why = format_string("is built with %s, which brings its own malloc; "
					 "build it without",
					 sanitizer);
		return INSPECT_NO_HELP;
	}
	if (defines(im, h, "malloc")) {
		*out_why =
			format_string("has its own malloc: calls that bind to it are not "
				      "seen");
		return INSPECT_OWN_MALLOC;
	}
	return INSPECT_OK;
}

/* "#!/path arg": the file that runs the script; for /usr/bin/env, the one that it finds.
 */
static char *interpreter_of(const struct image *im)
{
	char line[256], *word, *rest = NULL;
	size_t n = im->size - 2 < sizeof(line) - 1 ? im->size - 2 : sizeof(line) - 1;

	memcpy(line, im->bytes + 2, n);
	line[n] = '\0';
	line[strcspn(line, "\n")] = '\0';
	word = strtok_r(line, " \t", &rest);
	if (!word)
		return NULL;
	if (strcmp(word, "/usr/bin/env") == 0 || strcmp(word, "/bin/env") == 0) {
		do {
			word = strtok_r(NULL, " \t", &rest);
		} while (word && *word == '-');
		return word ? inspect_find(word) : NULL;
	}
	return format_string("%s", word);
}

static bool raises_privileges(const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0 || geteuid() == 0)
		return false;
	return ((st.st_mode & S_ISUID) && st.st_uid != geteuid()) ||
	       ((st.st_mode & S_ISGID) && st.st_gid != getegid());
}

enum inspect_result inspect_program(const char *path, char **out_file, char **out_why)
{
	char *file = format_string("%s", path);
	enum inspect_result result = INSPECT_OK;

	*out_why = NULL;
	for (int depth = 0; depth < MAX_SCRIPT_DEPTH; depth++) {
		struct image im;
		char *next = NULL;

		if (raises_privileges(file)) {
			*out_why = format_string(
				"is set-user-ID: the loader ignores LD_PRELOAD for it; "
				"run it as its owner");
			result = INSPECT_NO_HELP;
			break;
		}
		if (!map_file(file, &im))
			break;
		if (im.size >= sizeof(Elf64_Ehdr) &&
		    memcmp(im.bytes, ELFMAG, SELFMAG) == 0)
			result = look_at_elf(&im, out_why);
		else if (im.size > 3 && im.bytes[0] == '#' && im.bytes[1] == '!')
			next = interpreter_of(&im);
		munmap((void *)(uintptr_t)im.bytes, im.size);
		if (!next)
			break;
		free(file);
		file = next;
	}
	*out_file = file;
	return result;
}
