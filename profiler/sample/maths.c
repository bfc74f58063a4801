/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maths: series, see maths.h.
 */
#include "profiler/sample/maths.h"

#include <stdint.h>
#include <string.h>

#include "preload/base/base.h"

#define LN2 0.69314718055994530942

/* Polynomial c[0] + c[1] x + ... by Horner's rule; unrolled where n is a constant. */
static inline double polynomial(const double *c, int n, double x)
{
	double sum = c[n - 1];

	for (int i = n - 2; i >= 0; i--)
		sum = sum * x + c[i];
	return sum;
}

/* x = m * 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh((m - 1) / (m + 1)). */
double maths_ln(double x)
{
	static const double series[] = {
		1.0,	  1.0 / 3,  1.0 / 5,  1.0 / 7,	1.0 / 9,
		1.0 / 11, 1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19
	};
	uint64_t bits;
	int64_t e;
	double m, z, z2;

	memcpy(&bits, &x, sizeof(bits));
	e = (int64_t)(bits >> 52 & 0x7ff) - 1023;
	bits = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1023 << 52;
	memcpy(&m, &bits, sizeof(m));
	if (m > 1.41421356237309504880) {
		m /= 2;
		e++;
	}
	z = (m - 1) / (m + 1);
	z2 = z * z;
	/* 1 + z2/3 + z2^2/5 + ...: z2 <= 0.0295, so 2^-53 is reached by z2^9. */
	z *= polynomial(series, (int)ARRAY_LEN(series), z2);
	return 2 * z + (double)e * LN2;
}

/* Taylor series of 1 - e^-r for 0 <= r <= 1/8, then squared once for each halving. */
double maths_one_minus_exp(double x)
{
	/* (-1)^k / (k+1)! */
	static const double series[] = { 1.0,		-1.0 / 2,     1.0 / 6,
					 -1.0 / 24,	1.0 / 120,    -1.0 / 720,
					 1.0 / 5040,	-1.0 / 40320, 1.0 / 362880,
					 -1.0 / 3628800 };
	int halvings = 0;
	double s; /* 1 - e^-r */

	if (x > 40)
		return 1.0;
	while (x > 0.125) {
		x *= 0.5;
		halvings++;
	}
	s = x * polynomial(series, (int)ARRAY_LEN(series), x);
	for (; halvings > 0; halvings--) /* 1 - (1-s)^2 = s (2 - s) */
		s *= 2 - s;
	return s;
}

/* Below 1/4 by the series of x / (1 - e^-x) with Bernoulli's numbers, whose next term is
 * less than x^8 / 10^6: no division but one, and no halving. */
double maths_inverse_share(double x)
{
	double x2 = x * x;

	if (x >= 0.25)
		return 1 / maths_one_minus_exp(x);
	return 1 / x + 0.5 + x * (1.0 / 12 - x2 * (1.0 / 720 - x2 * (1.0 / 30240)));
}
