/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xz: see xz.h. Formats: "The .xz File Format" and the LZMA specification.
 *
 * Structure: a file is a header of twelve bytes, blocks, an index of them, and a footer
 * that says how long the index is. A block is a header and chunks of LZMA2, each either
 * stored or coded by LZMA: a range coder, whose probabilities learn, of literals, matches
 * and repeated matches. What is unpacked is its own dictionary.
 */
#include "profiler/pprof/xz.h"

#include <string.h>

#include "preload/base/meta.h"

#define HEADER_BYTES 12 /* of the file; the footer has as many */
#define FILTER_LZMA2 0x21
#define FLAG_PACKED  0x40 /* of a block: its header says these sizes */
#define FLAG_PLAIN   0x80

#define XZ_MAX	     (64 * MIB) /* of what is unpacked: symbols of one file */

#define STATES	     12
#define POS_STATES   16
#define LITERAL	     0x300
#define LC_LP_MAX    4
#define LEN_STATES   4
#define SLOTS	     64
#define FIRST_SLOT   4	/* of those with further bits */
#define DIRECT_SLOT  14 /* of those with direct bits */
#define FULL	     128
#define ALIGN_BITS   4
#define LEN_MIN	     2
#define HALF	     1024 /* a probability: of 2048 */
#define TOP	     ((uint32_t)1 << 24)

struct lengths {
	uint16_t choice, choice2;
	uint16_t low[POS_STATES][8], mid[POS_STATES][8], high[256];
};

struct decoder {
	/* the file */
	const uint8_t *in, *in_end;
	/* what is unpacked */
	uint8_t *out;
	size_t at, end; /* here; of the whole */
	size_t dict;	/* where the dictionary begins */
	bool bad;
	/* LZMA */
	uint32_t range, code;
	uint32_t state, rep[4];
	unsigned lc, lp_mask, pb_mask;
	bool has_props;
	struct probs {
		uint16_t is_match[STATES][POS_STATES], is_rep[STATES], is_rep0[STATES],
			is_rep1[STATES], is_rep2[STATES],
			is_rep0_long[STATES][POS_STATES];
		uint16_t slot[LEN_STATES][SLOTS];
		uint16_t special[FULL + 1 - DIRECT_SLOT], align[1 << ALIGN_BITS];
		struct lengths match, repeat;
		uint16_t literal[LITERAL << LC_LP_MAX];
	} probs;
};

/* ---- the range coder ---- */

static uint8_t next_byte(struct decoder *d)
{
	if (d->in < d->in_end)
		return *d->in++;
	d->bad = true;
	return 0;
}

static void normalize(struct decoder *d)
{
	if (d->range >= TOP)
		return;
	d->range <<= 8;
	d->code = d->code << 8 | next_byte(d);
}

static unsigned bit(struct decoder *d, uint16_t *p)
{
	uint32_t bound;

	normalize(d);
	bound = (d->range >> 11) * *p;
	if (d->code < bound) {
		d->range = bound;
		*p = (uint16_t)(*p + ((2048 - *p) >> 5));
		return 0;
	}
	d->range -= bound;
	d->code -= bound;
	*p = (uint16_t)(*p - (*p >> 5));
	return 1;
}

static uint32_t direct_bits(struct decoder *d, unsigned n)
{
	uint32_t v = 0;

	while (n-- > 0) {
		normalize(d);
		d->range >>= 1;
		v <<= 1;
		if (d->code >= d->range) {
			d->code -= d->range;
			v |= 1;
		}
	}
	return v;
}

static uint32_t tree(struct decoder *d, uint16_t *probs, unsigned bits)
{
	uint32_t m = 1;

	for (unsigned i = 0; i < bits; i++)
		m = m << 1 | bit(d, &probs[m]);
	return m - ((uint32_t)1 << bits);
}

static uint32_t reverse_tree(struct decoder *d, uint16_t *probs, unsigned bits)
{
	uint32_t m = 1, v = 0;

	for (unsigned i = 0; i < bits; i++) {
		unsigned b = bit(d, &probs[m]);

		m = m << 1 | b;
		v |= (uint32_t)b << i;
	}
	return v;
}

/* ---- LZMA ---- */

static void reset_state(struct decoder *d)
{
	uint16_t *p = (uint16_t *)&d->probs;

	d->state = 0;
	memset(d->rep, 0, sizeof(d->rep));
	for (size_t i = 0; i < sizeof(d->probs) / sizeof(*p); i++)
		p[i] = HALF;
}

static bool set_props(struct decoder *d, unsigned byte)
{
	unsigned lp = byte / 9 % 5;

	if (byte >= 9 * 5 * 5 || byte % 9 + lp > LC_LP_MAX)
		return false;
	d->lc = byte % 9;
	d->lp_mask = (1u << lp) - 1;
	d->pb_mask = (1u << byte / 45) - 1;
	d->has_props = true;
	return true;
}

static void literal(struct decoder *d)
{
	size_t pos = d->at - d->dict;
	unsigned before = pos > 0 ? d->out[d->at - 1] : 0, m = 1;
	unsigned context = (unsigned)(pos & d->lp_mask) << d->lc | before >> (8 - d->lc);
	uint16_t *probs = &d->probs.literal[LITERAL * context];

	if (d->state >= 7 && d->rep[0] < pos) {
		unsigned match = d->out[d->at - d->rep[0] - 1];

		while (m < 0x100) {
			unsigned expect = match >> 7 & 1;
			unsigned b = bit(d, &probs[((1 + expect) << 8) + m]);

			match <<= 1;
			m = m << 1 | b;
			if (b != expect)
				break;
		}
	}
	while (m < 0x100)
		m = m << 1 | bit(d, &probs[m]);
	d->out[d->at++] = (uint8_t)m;
	d->state -= d->state < 4 ? d->state : d->state < 10 ? 3 : 6;
}

static uint32_t length(struct decoder *d, struct lengths *l, unsigned pos_state)
{
	if (!bit(d, &l->choice))
		return tree(d, l->low[pos_state], 3);
	if (!bit(d, &l->choice2))
		return 8 + tree(d, l->mid[pos_state], 3);
	return 16 + tree(d, l->high, 8);
}

static uint32_t distance(struct decoder *d, uint32_t len)
{
	uint32_t slot =
		tree(d, d->probs.slot[len < LEN_STATES ? len : LEN_STATES - 1], 6);
	unsigned bits = (slot >> 1) - 1;
	uint32_t v;

	if (slot < FIRST_SLOT)
		return slot;
	v = (2 | (slot & 1)) << bits;
	if (slot < DIRECT_SLOT)
		return v + reverse_tree(d, &d->probs.special[v - slot], bits);
	v += direct_bits(d, bits - ALIGN_BITS) << ALIGN_BITS;
	return v + reverse_tree(d, d->probs.align, ALIGN_BITS);
}

/* Which of the latest distances comes again, and so becomes the first. True: for a byte.
 */
static bool choose_repeat(struct decoder *d, unsigned pos_state)
{
	struct probs *p = &d->probs;
	unsigned which = 1;
	uint32_t chosen;

	if (!bit(d, &p->is_rep0[d->state]))
		return !bit(d, &p->is_rep0_long[d->state][pos_state]);
	if (bit(d, &p->is_rep1[d->state]))
		which = 2 + bit(d, &p->is_rep2[d->state]);
	chosen = d->rep[which];
	memmove(d->rep + 1, d->rep, which * sizeof(d->rep[0]));
	d->rep[0] = chosen;
	return false;
}

/* The length of a match, whose distance is rep[0] then. */
static uint32_t match(struct decoder *d, unsigned pos_state)
{
	uint32_t len;

	if (!bit(d, &d->probs.is_rep[d->state])) {
		memmove(d->rep + 1, d->rep, 3 * sizeof(d->rep[0]));
		len = length(d, &d->probs.match, pos_state);
		d->state = d->state < 7 ? 7 : 10;
		d->rep[0] = distance(d, len);
		return len + LEN_MIN;
	}
	if (choose_repeat(d, pos_state)) {
		d->state = d->state < 7 ? 9 : 11;
		return 1;
	}
	len = length(d, &d->probs.repeat, pos_state);
	d->state = d->state < 7 ? 8 : 11;
	return len + LEN_MIN;
}

static void copy_match(struct decoder *d, uint32_t len, size_t end)
{
	size_t back = (size_t)d->rep[0] + 1;

	if (back > d->at - d->dict || len > end - d->at) {
		d->bad = true;
		return;
	}
	for (; len > 0; len--, d->at++)
		d->out[d->at] = d->out[d->at - back];
}

static void unpack_chunk(struct decoder *d, size_t end)
{
	d->bad |= next_byte(d) != 0;
	d->range = UINT32_MAX;
	d->code = 0;
	for (int i = 0; i < 4; i++)
		d->code = d->code << 8 | next_byte(d);
	while (d->at < end && !d->bad) {
		unsigned pos_state = (unsigned)(d->at - d->dict) & d->pb_mask;

		if (!bit(d, &d->probs.is_match[d->state][pos_state]))
			literal(d);
		else
			copy_match(d, match(d, pos_state), end);
	}
}

/* ---- LZMA2 ---- */

static size_t size_after(struct decoder *d, size_t high)
{
	size_t middle = next_byte(d);

	return (high << 16 | middle << 8 | next_byte(d)) + 1;
}

static void stored_chunk(struct decoder *d, unsigned control)
{
	size_t n = size_after(d, 0);

	if (control == 1)
		d->dict = d->at;
	if (control > 2 || n > d->end - d->at || n > (size_t)(d->in_end - d->in)) {
		d->bad = true;
		return;
	}
	memcpy(d->out + d->at, d->in, n);
	d->at += n;
	d->in += n;
}

static void coded_chunk(struct decoder *d, unsigned control)
{
	size_t plain = size_after(d, control & 0x1f), packed = size_after(d, 0);
	const uint8_t *in_end = d->in_end;
	unsigned reset = control >> 5 & 3;

	if (reset == 3)
		d->dict = d->at;
	if (reset >= 2 && !set_props(d, next_byte(d)))
		d->bad = true;
	if (reset >= 1)
		reset_state(d);
	if (d->bad || !d->has_props || plain > d->end - d->at ||
	    packed > (size_t)(in_end - d->in)) {
		d->bad = true;
		return;
	}
	d->in_end = d->in + packed;
	unpack_chunk(d, d->at + plain);
	d->in = d->in_end;
	d->in_end = in_end;
}

static void unpack_chunks(struct decoder *d)
{
	while (!d->bad) {
		unsigned control = next_byte(d);

		if (control == 0)
			return;
		if (control < 0x80)
			stored_chunk(d, control);
		else
			coded_chunk(d, control);
	}
}

/* ---- the file ---- */

static uint64_t number(struct decoder *d)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 63; shift += 7) {
		uint8_t byte = next_byte(d);

		v |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80)
			return v;
	}
	d->bad = true;
	return 0;
}

static bool is_xz(const uint8_t *file, size_t size)
{
	static const uint8_t head[] = { 0xfd, '7', 'z', 'X', 'Z', 0 };

	return size >= 2 * HEADER_BYTES && size % 4 == 0 &&
	       memcmp(file, head, sizeof(head)) == 0 &&
	       memcmp(file + size - 2, "YZ", 2) == 0;
}

/* The sum of what the blocks become, by the index at the file's end. */
static size_t sum_index(struct decoder *d, const uint8_t *bytes, size_t size)
{
	uint64_t total = 0, one;
	uint32_t words;

	memcpy(&words, bytes + size - 8, sizeof(words));
	if (words >= (size - 2 * HEADER_BYTES) / 4)
		return 0;
	d->in_end = bytes + size - HEADER_BYTES;
	d->in = d->in_end - ((size_t)words + 1) * 4;
	d->bad = next_byte(d) != 0;
	for (uint64_t n = number(d); n > 0 && !d->bad; n--) {
		number(d); /* packed */
		one = number(d);
		if (one > XZ_MAX || total + one > XZ_MAX)
			return 0;
		total += one;
	}
	return d->bad ? 0 : total;
}

size_t xz_unpacked_size(const void *file, size_t size)
{
	struct decoder *d; /* too large for the stack */
	size_t total;

	if (!is_xz(file, size))
		return 0;
	d = meta_map(sizeof(*d), META_PPROF);
	if (!d)
		return 0;
	total = sum_index(d, file, size);
	meta_unmap(d, sizeof(*d), META_PPROF);
	return total;
}

/* The head of a block; false: it is the index, or nothing that we know. */
static bool block_begins(struct decoder *d)
{
	const uint8_t *start = d->in;
	size_t bytes = ((size_t)next_byte(d) + 1) * 4;
	unsigned flags = next_byte(d);

	if (bytes <= 4 || bytes > (size_t)(d->in_end - start))
		return false;
	if (flags & FLAG_PACKED)
		number(d);
	if (flags & FLAG_PLAIN)
		number(d);
	if ((flags & 3) != 0 || number(d) != FILTER_LZMA2 || d->bad)
		return false;
	d->in = start + bytes;
	return true;
}

/* Bytes of a block's checksum, by the header's low digit. */
static size_t check_bytes(unsigned kind)
{
	return kind == 0 ? 0 : (size_t)4 << (kind - 1) / 3;
}

static bool unpack_blocks(struct decoder *d, const uint8_t *file)
{
	size_t check = check_bytes(file[7] & 15);

	while (d->at < d->end) {
		size_t skip;

		if (!block_begins(d))
			return false;
		unpack_chunks(d);
		skip = (size_t)(file - d->in) % 4 + check;
		if (d->bad || skip > (size_t)(d->in_end - d->in))
			return false;
		d->in += skip;
	}
	return true;
}

bool xz_unpack(const void *file, size_t size, void *out, size_t out_size)
{
	struct decoder *d;
	bool ok;

	if (!is_xz(file, size))
		return false;
	d = meta_map(sizeof(*d), META_PPROF);
	if (!d)
		return false;
	d->in = (const uint8_t *)file + HEADER_BYTES;
	d->in_end = (const uint8_t *)file + size - HEADER_BYTES;
	d->out = out;
	d->end = out_size;
	ok = unpack_blocks(d, file);
	meta_unmap(d, sizeof(*d), META_PPROF);
	return ok;
}
