/* SPDX-License-Identifier: Apache-2.0 */
/*
 * estimate: how far the figures of a sampled profile may be from the truth.
 *
 * An object of size s is in the sample with the probability p = 1 - e^(-s/period), and
 * stands for 1/p objects then. Of k objects seen, the estimate's variance is itself
 * estimated by the sum of s^2 (1-p)/p^2; for objects of one size, the standard error is
 * sqrt((1-p)/k) of the estimate. What is printed is that error: the truth is within it in
 * two cases of three, and within twice as much in nineteen of twenty. A site whose
 * objects differ in size is taken to have objects of their mean size: for bytes that is
 * exact as long as sizes are small against the period; of numbers of objects it says too
 * little where a few bytes and thousands come from one site.
 */
#ifndef TOOLS_LIB_ESTIMATE_H
#define TOOLS_LIB_ESTIMATE_H

#include <stdbool.h>
#include <stddef.h>

#include "tools/lib/pbfile.h"

/* Which figures of a profile are estimates. */
struct estimate {
	double period;	    /* 0: none is */
	int objects, space; /* sample types that give the mean size */
};

/* For the sample type number `type`. */
struct estimate estimate_of(const struct pbfile *f, int type);
/* The variance of the figure `value` of one sample, in its unit squared; 0 where it is no
 * estimate. Those of several samples add up. */
double estimate_variance(const struct estimate *e, const Seep__Pprof__Sample *s,
			 int64_t value);
/* " +-4 %" (with the one sign for both) of value, or "". Returns buf. */
const char *estimate_text(double value, double variance, char *buf, size_t size);

#endif
