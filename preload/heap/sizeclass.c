/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sizeclass: the tables, see sizeclass.h.
 *
 * How a row comes about: a span of slots up to 512 bytes is 64 KiB long, or 1024 slots;
 * of others it holds at least 16 slots of up to 1 KiB, 8 of up to 8 KiB, 4 of the
 * largest, and 16 KiB; among span sizes up to twice that the shortest that wastes at most
 * 3 % is taken, or the least wasteful (all below 9 %). What a program makes in a row it
 * also walks over in that order, and the processor fetches ahead until the span ends:
 * python's collector took a tenth less time than with spans of 16 KiB. An mcache array
 * holds at most 256 pointers, and 64 KiB of slots up to 1 KiB or 128 KiB of larger ones,
 * but of those at least 16 and at most 64. One class stands between two steps, 4480: a
 * page and what a program keeps about it, as sqlite does for each.
 *
 * A program has but one or two objects of many of the larger classes. The first spans of
 * these are as short as they can be without wasting more than an eighth; those of slots
 * up to 512 bytes are 16 KiB long. tests/unit/test_sizeclass.c checks every rule for
 * every class.
 */
#include "preload/heap/sizeclass.h"

#include "preload/heap/mspan.h"

/* clang-format off */
/* slot_size, npages, nslots, magic, cache_max, batch */
const struct sizeclass_info sizeclass_info[SIZECLASS_COUNT] = {
	{ 0 }, /* class 0: no class */
	{ 16, 2, 1024, 2147483648u, 256, 128 }, /* 1 */
	{ 32, 4, 1024, 1073741824u, 256, 128 }, /* 2 */
	{ 48, 6, 1024, 715827883u, 256, 128 }, /* 3 */
	{ 64, 8, 1024, 536870912u, 256, 128 }, /* 4 */
	{ 80, 8, 819, 429496730u, 256, 128 }, /* 5 */
	{ 96, 8, 682, 357913942u, 256, 128 }, /* 6 */
	{ 112, 8, 585, 306783379u, 256, 128 }, /* 7 */
	{ 128, 8, 512, 268435456u, 256, 128 }, /* 8 */
	{ 144, 8, 455, 238609295u, 256, 128 }, /* 9 */
	{ 160, 8, 409, 214748365u, 256, 128 }, /* 10 */
	{ 176, 8, 372, 195225787u, 256, 128 }, /* 11 */
	{ 192, 8, 341, 178956971u, 256, 128 }, /* 12 */
	{ 208, 8, 315, 165191050u, 256, 128 }, /* 13 */
	{ 224, 8, 292, 153391690u, 256, 128 }, /* 14 */
	{ 240, 8, 273, 143165577u, 256, 128 }, /* 15 */
	{ 256, 8, 256, 134217728u, 256, 128 }, /* 16 */
	{ 288, 8, 227, 119304648u, 227, 113 }, /* 17 */
	{ 320, 8, 204, 107374183u, 204, 102 }, /* 18 */
	{ 352, 8, 186, 97612894u, 186, 93 }, /* 19 */
	{ 384, 8, 170, 89478486u, 170, 85 }, /* 20 */
	{ 416, 8, 157, 82595525u, 157, 78 }, /* 21 */
	{ 448, 8, 146, 76695845u, 146, 73 }, /* 22 */
	{ 480, 8, 136, 71582789u, 136, 68 }, /* 23 */
	{ 512, 8, 128, 67108864u, 128, 64 }, /* 24 */
	{ 576, 2, 28, 59652324u, 113, 56 }, /* 25 */
	{ 640, 2, 25, 53687092u, 102, 51 }, /* 26 */
	{ 704, 2, 23, 48806447u, 93, 46 }, /* 27 */
	{ 768, 2, 21, 44739243u, 85, 42 }, /* 28 */
	{ 832, 3, 29, 41297763u, 78, 39 }, /* 29 */
	{ 896, 2, 18, 38347923u, 73, 36 }, /* 30 */
	{ 960, 2, 17, 35791395u, 68, 34 }, /* 31 */
	{ 1024, 2, 16, 33554432u, 64, 32 }, /* 32 */
	{ 1152, 2, 14, 29826162u, 64, 32 }, /* 33 */
	{ 1280, 3, 19, 26843546u, 64, 32 }, /* 34 */
	{ 1408, 3, 17, 24403224u, 64, 32 }, /* 35 */
	{ 1536, 3, 16, 22369622u, 64, 32 }, /* 36 */
	{ 1664, 4, 19, 20648882u, 64, 32 }, /* 37 */
	{ 1792, 2, 9, 19173962u, 64, 32 }, /* 38 */
	{ 1920, 4, 17, 17895698u, 64, 32 }, /* 39 */
	{ 2048, 2, 8, 16777216u, 64, 32 }, /* 40 */
	{ 2304, 4, 14, 14913081u, 56, 28 }, /* 41 */
	{ 2560, 5, 16, 13421773u, 51, 25 }, /* 42 */
	{ 2816, 6, 17, 12201612u, 46, 23 }, /* 43 */
	{ 3072, 3, 8, 11184811u, 42, 21 }, /* 44 */
	{ 3328, 5, 12, 10324441u, 39, 19 }, /* 45 */
	{ 3584, 4, 9, 9586981u, 36, 18 }, /* 46 */
	{ 3840, 8, 17, 8947849u, 34, 17 }, /* 47 */
	{ 4096, 4, 8, 8388608u, 32, 16 }, /* 48 */
	{ 4480, 5, 9, 7669585u, 29, 14 }, /* 49 */
	{ 4608, 8, 14, 7456541u, 28, 14 }, /* 50 */
	{ 5120, 5, 8, 6710887u, 25, 12 }, /* 51 */
	{ 5632, 7, 10, 6100806u, 23, 11 }, /* 52 */
	{ 6144, 6, 8, 5592406u, 21, 10 }, /* 53 */
	{ 6656, 9, 11, 5162221u, 19, 9 }, /* 54 */
	{ 7168, 7, 8, 4793491u, 18, 9 }, /* 55 */
	{ 7680, 15, 16, 4473925u, 17, 8 }, /* 56 */
	{ 8192, 8, 8, 4194304u, 16, 8 }, /* 57 */
	{ 9216, 8, 7, 3728271u, 16, 8 }, /* 58 */
	{ 10240, 5, 4, 3355444u, 16, 8 }, /* 59 */
	{ 11264, 7, 5, 3050403u, 16, 8 }, /* 60 */
	{ 12288, 6, 4, 2796203u, 16, 8 }, /* 61 */
	{ 13312, 10, 6, 2581111u, 16, 8 }, /* 62 */
	{ 14336, 7, 4, 2396746u, 16, 8 }, /* 63 */
	{ 15360, 15, 8, 2236963u, 16, 8 }, /* 64 */
	{ 16384, 8, 4, 2097152u, 16, 8 }, /* 65 */
	{ 18432, 9, 4, 1864136u, 16, 8 }, /* 66 */
	{ 20480, 10, 4, 1677722u, 16, 8 }, /* 67 */
	{ 22528, 11, 4, 1525202u, 16, 8 }, /* 68 */
	{ 24576, 12, 4, 1398102u, 16, 8 }, /* 69 */
	{ 26624, 13, 4, 1290556u, 16, 8 }, /* 70 */
	{ 28672, 14, 4, 1198373u, 16, 8 }, /* 71 */
	{ 30720, 15, 4, 1118482u, 16, 8 }, /* 72 */
	{ 32768, 16, 4, 1048576u, 16, 8 }, /* 73 */
};

/* By (size + 15) / 16. */
const uint8_t sizeclass_fine[SIZECLASS_FINE_MAX / 16 + 1] = {
	1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 17, 18, 18, 19,
	19, 20, 20, 21, 21, 22, 22, 23, 23, 24, 24, 25, 25, 25, 25, 26, 26, 26, 26, 27,
	27, 27, 27, 28, 28, 28, 28, 29, 29, 29, 29, 30, 30, 30, 30, 31, 31, 31, 31, 32,
	32, 32, 32,
};

/* By (size + 127) / 128. */
const uint8_t sizeclass_coarse[SIZECLASS_MAX_SIZE / 128 + 1] = {
	1, 8, 16, 20, 24, 26, 28, 30, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 41, 42,
	42, 43, 43, 44, 44, 45, 45, 46, 46, 47, 47, 48, 48, 49, 49, 49, 50, 51, 51, 51,
	51, 52, 52, 52, 52, 53, 53, 53, 53, 54, 54, 54, 54, 55, 55, 55, 55, 56, 56, 56,
	56, 57, 57, 57, 57, 58, 58, 58, 58, 58, 58, 58, 58, 59, 59, 59, 59, 59, 59, 59,
	59, 60, 60, 60, 60, 60, 60, 60, 60, 61, 61, 61, 61, 61, 61, 61, 61, 62, 62, 62,
	62, 62, 62, 62, 62, 63, 63, 63, 63, 63, 63, 63, 63, 64, 64, 64, 64, 64, 64, 64,
	64, 65, 65, 65, 65, 65, 65, 65, 65, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66,
	66, 66, 66, 66, 66, 67, 67, 67, 67, 67, 67, 67, 67, 67, 67, 67, 67, 67, 67, 67,
	67, 68, 68, 68, 68, 68, 68, 68, 68, 68, 68, 68, 68, 68, 68, 68, 68, 69, 69, 69,
	69, 69, 69, 69, 69, 69, 69, 69, 69, 69, 69, 69, 69, 70, 70, 70, 70, 70, 70, 70,
	70, 70, 70, 70, 70, 70, 70, 70, 70, 71, 71, 71, 71, 71, 71, 71, 71, 71, 71, 71,
	71, 71, 71, 71, 71, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72,
	72, 73, 73, 73, 73, 73, 73, 73, 73, 73, 73, 73, 73, 73, 73, 73, 73,
};
/* clang-format on */

#define LONG_TO	    512	 /* slots in 64 KiB, see above */
#define SHORT_PAGES 2	 /* of these, at first */
#define SHORT_FROM  1024 /* slots; shorter spans than two pages would hold few more */
#define SHORT_WASTE 8	 /* one part in so many */

uint32_t sizeclass_short_pages(unsigned c)
{
	const struct sizeclass_info *info = &sizeclass_info[c];
	uint32_t npages = 0, waste;

	if (info->slot_size <= LONG_TO)
		return SHORT_PAGES;
	if (info->slot_size < SHORT_FROM)
		return info->npages;
	do
		waste = (++npages << PAGE_SHIFT) % info->slot_size;
	while (npages < info->npages && (waste * SHORT_WASTE > npages << PAGE_SHIFT ||
					 npages << PAGE_SHIFT < info->slot_size));
	return npages;
}

/* Slots of a class between 2^k and 2^(k+1) are multiples of 2^(k-3), and every such
 * multiple is a class. So the class of a size that is a multiple of align has slots on
 * multiples of align: its slot is the size itself, or align divides the step. The class
 * between two steps may not do, then the next one does. */
unsigned sizeclass_of_aligned(size_t size, size_t align)
{
	size_t need = align_up(size ? size : 1, align);
	unsigned c;

	if (size > SIZECLASS_MAX_SIZE || align > PAGE_SIZE || need > SIZECLASS_MAX_SIZE)
		return 0;
	c = sizeclass_of(need);
	return sizeclass_info[c].slot_size % align == 0 ? c : c + 1;
}
