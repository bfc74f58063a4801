/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maths: series, see maths.h.
 */
#include "profiler/sample/maths.h"

#include <stdint.h>
#include <string.h>

#define LN2 0.69314718055994530942

/* x = m * 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh((m - 1) / (m + 1)). */
double maths_ln(double x)
{
	uint64_t bits;
	int64_t e;
	double m, z, z2, term, sum = 0;

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
	term = z;
	for (int k = 1; k < 24; k += 2) {
		sum += term / k;
		term *= z2;
	}
	return 2 * sum + (double)e * LN2;
}

/* Taylor series of e^-r for 0 <= r < 1/8, squared three times for each halving. */
double maths_one_minus_exp(double x)
{
	int halvings = 0;
	double term, sum = 0; /* of 1 - e^-r */

	if (x > 40)
		return 1.0;
	while (x > 0.125) {
		x /= 2;
		halvings++;
	}
	term = x;
	for (int k = 2; k < 12; k++) {
		sum += term;
		term *= -x / k;
	}
	for (; halvings > 0; halvings--) /* 1 - (1-s)^2 = s (2 - s) */
		sum *= 2 - sum;
	return sum;
}
