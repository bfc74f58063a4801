/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maths: the two functions that Poisson sampling needs, without libm
 * (tests/unit/test_sample.c compares with it).
 */
#ifndef PROFILER_SAMPLE_MATHS_H
#define PROFILER_SAMPLE_MATHS_H

#include <stdint.h>
#include <string.h>

#define MATHS_LN2      0.69314718055994530942
#define MATHS_MANTISSA 52
#define MATHS_BIAS     1023

static inline double maths_from_bits(uint64_t bits)
{
	double x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

/* FAST. An exponential variate of mean 1 from 64 random bits: -ln of the number in (0, 1)
 * that they spell, to 10^-6; for the largest numbers it may be a little less than 0.
 * The bits are 0.000...01xxx in base 2: the leading zeroes are the exponent, what follows
 * the first one is the mantissa m in [1, 2). The polynomial through ln m at Chebyshev's
 * points is exact at both ends, so the result never jumps between exponents; over [1, 2)
 * its error averages to 6e-9. */
static inline double maths_exponential(uint64_t random)
{
	uint64_t bits = random | 1;
	unsigned zeroes = (unsigned)__builtin_clzl(bits);
	double x = maths_from_bits((bits << zeroes << 1) >> (64 - MATHS_MANTISSA) |
				   (uint64_t)MATHS_BIAS << MATHS_MANTISSA) -
		   1;
	double x2 = x * x;
	/* in short chains that run side by side */
	double low = 0.99999571125463693 - x * 0.49968323605382881;
	double middle = 0.32914972484604221 - x * 0.22742681758993175;
	double high = 0.13552377572702323 - x * 0.054896138533905216 +
		      x2 * 0.010484160909908738;
	double sum = low + x2 * (middle + x2 * high);

	return (double)(int)(zeroes + 1) * MATHS_LN2 - x * sum;
}

/* FAST. For x >= 1/4: see maths_inverse_share(). */
double maths_inverse_share_far(double x);

/* FAST. 1 / (1 - e^-x), x > 0, to 10^-10 of itself. Below 1/4 by the series of
 * x / (1 - e^-x) with Bernoulli's numbers, whose next term is less than x^8 / 10^6. */
static inline double maths_inverse_share(double x)
{
	double x2 = x * x;

	if (x >= 0.25)
		return maths_inverse_share_far(x);
	return 1 / x + 0.5 + x * (1.0 / 12 - x2 * (1.0 / 720 - x2 * (1.0 / 30240)));
}

#endif
