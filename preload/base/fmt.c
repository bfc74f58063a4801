/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fmt: formatting and our one line on stderr, see fmt.h.
 */
#include "preload/base/fmt.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "preload/base/os.h"

/* Identity of descriptor 2 at start; valid 0: not remembered, write anyway. */
static struct {
	uint64_t dev, ino;
	bool valid;  /* the rest is known */
	bool closed; /* it was closed at start already */
} log_stderr;

void out_init(struct out *o, char *buf, size_t size, out_sink sink, void *arg)
{
	*o = (struct out){ .buf = buf, .size = size, .sink = sink, .arg = arg };
}

bool out_flush(struct out *o)
{
	if (o->sink && o->used > 0) {
		if (!o->sink(o->arg, o->buf, o->used))
			o->lost += o->used;
		o->used = 0;
	}
	return o->lost == 0;
}

void out_bytes(struct out *o, const char *bytes, size_t size)
{
	while (size > 0) {
		size_t room = o->size - o->used;
		size_t n = size < room ? size : room;

		memcpy(o->buf + o->used, bytes, n);
		o->used += n;
		bytes += n;
		size -= n;
		if (size == 0)
			return;
		if (!o->sink || o->size == 0) {
			o->lost += size;
			return;
		}
		out_flush(o);
	}
}

void out_str(struct out *o, const char *text)
{
	if (!text)
		text = "(null)";
	out_bytes(o, text, strlen(text));
}

/* Length of the well-formed UTF-8 sequence at s, 0 when there is none. */
static size_t utf8_length(const unsigned char *s)
{
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		return (s[1] & 0xc0) == 0x80 ? 2 : 0;
	if (s[0] >= 0xe0 && s[0] <= 0xef) {
		if ((s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80)
			return 0;
		if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f))
			return 0;
		return 3;
	}
	if (s[0] >= 0xf0 && s[0] <= 0xf4) {
		if ((s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80 ||
		    (s[3] & 0xc0) != 0x80)
			return 0;
		if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
			return 0;
		return 4;
	}
	return 0;
}

void out_json(struct out *o, const char *text)
{
	const unsigned char *s = (const unsigned char *)(text ? text : "");

	out_str(o, "\"");
	while (*s) {
		if (*s == '"' || *s == '\\') {
			out_format(o, "\\%c", *s++);
		} else if (*s < 0x20 || *s == 0x7f) {
			out_format(o, "\\u%04x", *s++);
		} else if (*s < 0x80) {
			out_bytes(o, (const char *)s++, 1);
		} else {
			size_t n = utf8_length(s);

			if (n == 0) {
				out_str(o, "\xef\xbf\xbd");
				s++;
			} else {
				out_bytes(o, (const char *)s, n);
				s += n;
			}
		}
	}
	out_str(o, "\"");
}

struct spec {
	bool left, zero, alt;
	size_t width, precision;
	bool has_precision;
	int length; /* 0 int, 1 long, size_t, intmax_t or long long */
};

static void put_padded(struct out *o, const struct spec *sp, const char *text, size_t n)
{
	size_t pad = sp->width > n ? sp->width - n : 0;

	for (; !sp->left && pad > 0; pad--)
		out_bytes(o, " ", 1);
	out_bytes(o, text, n);
	for (; pad > 0; pad--)
		out_bytes(o, " ", 1);
}

static void put_number(struct out *o, const struct spec *sp, uint64_t value,
		       bool negative, unsigned base, const char *prefix)
{
	char digits[96];
	size_t at = sizeof(digits);
	size_t prefix_size = strlen(prefix) + (negative ? 1 : 0);

	do {
		digits[--at] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value != 0);
	while (sp->zero && !sp->left && sizeof(digits) - at + prefix_size < sp->width &&
	       at > 8)
		digits[--at] = '0';
	for (size_t i = strlen(prefix); i > 0; i--)
		digits[--at] = prefix[i - 1];
	if (negative)
		digits[--at] = '-';
	put_padded(o, sp, digits + at, sizeof(digits) - at);
}

static const char *parse_spec(const char *f, struct spec *sp, va_list *ap)
{
	*sp = (struct spec){ 0 };
	for (;; f++) {
		if (*f == '-')
			sp->left = true;
		else if (*f == '0')
			sp->zero = true;
		else if (*f == '#')
			sp->alt = true;
		else
			break;
	}
	if (*f == '*') {
		sp->width = (size_t)va_arg(*ap, int);
		f++;
	}
	for (; *f >= '0' && *f <= '9'; f++)
		sp->width = sp->width * 10 + (size_t)(*f - '0');
	if (*f == '.') {
		sp->has_precision = true;
		if (*++f == '*') {
			sp->precision = (size_t)va_arg(*ap, int);
			f++;
		}
		for (; *f >= '0' && *f <= '9'; f++)
			sp->precision = sp->precision * 10 + (size_t)(*f - '0');
	}
	for (; *f == 'l' || *f == 'z' || *f == 'j' || *f == 't'; f++)
		sp->length = 1;
	return f;
}

static void put_signed(struct out *o, const struct spec *sp, int64_t v)
{
	uint64_t magnitude = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;

	put_number(o, sp, magnitude, v < 0, 10, "");
}

/* Its length, at most most. */
static size_t text_length(const char *text, size_t most)
{
	size_t n = 0;

	while (n < most && text[n])
		n++;
	return n;
}

static void put_text(struct out *o, const struct spec *sp, const char *text)
{
	size_t most = sp->has_precision ? sp->precision : SIZE_MAX;

	if (!text)
		text = "(null)";
	put_padded(o, sp, text, text_length(text, most));
}

void out_vformat(struct out *o, const char *f, va_list args)
{
	va_list ap;

	va_copy(ap, args);
	for (; *f; f++) {
		struct spec sp;
		char c;

		if (*f != '%') {
			const char *end = f;

			while (end[1] && end[1] != '%')
				end++;
			out_bytes(o, f, (size_t)(end - f) + 1);
			f = end;
			continue;
		}
		f = parse_spec(f + 1, &sp, &ap);
		switch (*f) {
		case 'd':
		case 'i':
			put_signed(o, &sp,
				   sp.length ? va_arg(ap, long) : va_arg(ap, int));
			break;
		case 'u':
		case 'x':
			put_number(o, &sp,
				   sp.length ? va_arg(ap, unsigned long)
					     : va_arg(ap, unsigned),
				   false, *f == 'x' ? 16 : 10, sp.alt ? "0x" : "");
			break;
		case 'p':
			put_number(o, &sp, (uintptr_t)va_arg(ap, void *), false, 16,
				   "0x");
			break;
		case 'c':
			c = (char)va_arg(ap, int);
			put_padded(o, &sp, &c, 1);
			break;
		case 's':
			put_text(o, &sp, va_arg(ap, const char *));
			break;
		case '%':
			out_bytes(o, "%", 1);
			break;
		default: /* end of the format, or something we do not know */
			va_end(ap);
			return;
		}
	}
	va_end(ap);
}

void out_format(struct out *o, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	out_vformat(o, format, ap);
	va_end(ap);
}

size_t fmt_string(char *buf, size_t size, const char *format, ...)
{
	struct out o;
	va_list ap;

	out_init(&o, buf, size > 0 ? size - 1 : 0, NULL, NULL);
	va_start(ap, format);
	out_vformat(&o, format, ap);
	va_end(ap);
	if (size > 0)
		buf[o.used] = '\0';
	return o.used + o.lost;
}

static bool stat_stderr(uint64_t *dev, uint64_t *ino)
{
	struct stat st;

	if (os_stat(2, &st) != 0)
		return false;
	*dev = st.st_dev;
	*ino = st.st_ino;
	return true;
}

void log_remember_stderr(void)
{
	log_stderr.closed = !stat_stderr(&log_stderr.dev, &log_stderr.ino);
	log_stderr.valid = true;
}

bool log_stderr_is_ours(void)
{
	uint64_t dev, ino;

	if (!log_stderr.valid)
		return true;
	if (log_stderr.closed || !stat_stderr(&dev, &ino))
		return false;
	return dev == log_stderr.dev && ino == log_stderr.ino;
}

void log_line(const char *format, ...)
{
	char text[640];
	struct out o;
	va_list ap;

	if (!log_stderr_is_ours())
		return;
	out_init(&o, text, sizeof(text) - 1, NULL, NULL);
	out_str(&o, "seep: ");
	va_start(ap, format);
	out_vformat(&o, format, ap);
	va_end(ap);
	for (size_t i = 0; i < o.used; i++) /* of a file's name */
		if ((unsigned char)text[i] < ' ')
			text[i] = '?';
	text[o.used++] = '\n';
	os_write_all(2, text, o.used);
}
