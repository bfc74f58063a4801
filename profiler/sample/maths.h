/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maths: the two functions that Poisson sampling needs, without libm. Relative error
 * below 1e-9 in the ranges used (tests/unit/test_sample.c compares with libm).
 */
#ifndef PROFILER_SAMPLE_MATHS_H
#define PROFILER_SAMPLE_MATHS_H

/* Natural logarithm of x > 0. */
double maths_ln(double x);
/* 1 - e^-x for x >= 0, also accurate near 0. */
double maths_one_minus_exp(double x);
/* 1 / (1 - e^-x), x > 0, to 10^-10 of itself. FAST. */
double maths_inverse_share(double x);

#endif
