/* SPDX-License-Identifier: Apache-2.0 */
/* The mathematics of sampling against libm, and its statistics on the real heap. */
#include "tests/unit/cm.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "preload/base/meta.h"
#include "preload/base/opt.h"
#include "preload/heap/heap.h"
#include "preload/heap/mcache.h"
#include "profiler/sample/count.h"
#include "profiler/sample/lifetime.h"
#include "profiler/sample/maths.h"
#include "profiler/sample/sample.h"
#include "profiler/sample/sample_int.h"
#include "profiler/site/share.h"
#include "profiler/site/site.h"
#include "profiler/stack/module.h"
#include "profiler/stack/thread.h"
#include "profiler/stack/unwind.h"

static void close_to(double ours, double libm)
{
	assert_true(fabs(ours - libm) <= 1e-9 * fabs(libm) + 1e-15);
}

static void test_maths(void **state)
{
	(void)state;
	for (double x = 1e-16; x < 1e6; x *= 1.37)
		close_to(maths_inverse_share(x), -1 / expm1(-x));
	for (double x = 0.2; x < 0.3; x += 0.001) /* where the series change */
		close_to(maths_inverse_share(x), -1 / expm1(-x));
}

/* 64 bits that follow a leading one are the mantissa of a number in (0, 1). */
static void test_exponential(void **state)
{
	uint64_t bits = 1;

	(void)state;
	for (int i = 0; i < 1000000; i++) {
		double got = maths_exponential(bits >> (i % 60));
		double want = 64 * log(2.0) - log((double)((bits >> (i % 60)) | 1));

		assert_true(fabs(got - want) < 1e-6);
		bits = bits * 6364136223846793005u + 1442695040888963407u;
	}
	assert_true(maths_exponential(0) > 43 && maths_exponential(0) < 45);
	assert_true(fabs(maths_exponential(UINT64_MAX)) < 1e-6);
}

/* The distribution itself: of a million evenly spread arguments the share below each
 * quantile, the mean and the mean square are those of the exponential distribution. */
static void test_exponential_distribution(void **state)
{
	const int n = 1000000;
	int below[10] = { 0 };
	double sum = 0, squares = 0;

	(void)state;
	for (int i = 0; i < n; i++) {
		double u = ((double)i + 0.5) / n;
		double v = maths_exponential((uint64_t)(u * 18446744073709551616.0));

		sum += v;
		squares += v * v;
		for (int q = 1; q < 10; q++)
			below[q] += v < -log(1 - q / 10.0);
	}
	assert_true(fabs(sum / n - 1) < 1e-5);
	assert_true(fabs(squares / n - 2) < 1e-3);
	for (int q = 1; q < 10; q++)
		assert_true(abs(below[q] - n / 10 * q) <= 2);
}

static void test_weight(void **state)
{
	(void)state;
	for (size_t n = 1; n < 100000000; n = n * 3 + 1) {
		double want = 1 / -expm1(-(double)n / (double)(512 * KIB));

		assert_true(fabs((double)sample_weight(n) / (1 << SITE_SHIFT) / want -
				 1) < 1e-4);
	}
}

/* What the counters get for an object is its weight, also when it is remembered, and goes
 * again when the object does. Sizes that share an entry, and one that is too large. */
static void test_counted(void **state)
{
	static const size_t sizes[] = {
		0, 1, 16, 17, 1040, 100, 100, 32768, 70000, 65535
	};

	(void)state;
	for (size_t i = 0; i < 3 * ARRAY_LEN(sizes); i++) {
		size_t size = sizes[i % ARRAY_LEN(sizes)];
		uint64_t objects = sample_weight(size) >> SITE_SHIFT;
		struct sample_total before, made, after;
		void *p;

		sample_get_total(&before);
		heap_set_budget(-1);
		p = heap_malloc(size);
		sample_get_total(&made);
		heap_free(p);
		sample_get_total(&after);
		assert_in_range(made.alloc_objects - before.alloc_objects, objects,
				objects + 1);
		assert_int_equal(made.alloc_bytes - before.alloc_bytes,
				 size * sample_weight(size) >> SITE_SHIFT);
		assert_int_equal(after.live_bytes, before.live_bytes);
		assert_int_equal(after.live_objects, before.live_objects);
	}
}

/* 200 MB in blocks of mixed sizes: the estimate has a standard deviation of about
 * sqrt(total * period) bytes; six of them are allowed. The seed is fixed. */
static void test_unbiased(void **state)
{
	struct sample_total before, after;
	double total = 0, error;
	unsigned seed = 1;

	(void)state;
	sample_get_total(&before);
	for (int i = 0; i < 200000; i++) {
		size_t n = 16 + (seed >> 12) % 2000;

		seed = seed * 1664525u + 1013904223u;
		heap_free(heap_malloc(n));
		total += (double)n;
	}
	sample_get_total(&after);
	error = (double)(after.alloc_bytes - before.alloc_bytes) - total;
	assert_true(fabs(error) < 6 * sqrt(total * 512.0 * 1024));
	assert_true(after.samples > before.samples + 200);
	/* every sampled block was freed again */
	assert_int_equal(after.live_bytes, before.live_bytes);
	assert_int_equal(after.live_objects, before.live_objects);
}

/* Objects that become smaller where they are: what lives of them is estimated by the
 * samples that are kept. The standard deviation is about sqrt(N * .45) objects; six of
 * them are allowed. If all samples were kept, there would be a quarter too many. */
static void test_shrunk(void **state)
{
	enum { N = 600 };
	struct sample_total before, after;
	double sum = 0;

	(void)state;
	sample_get_total(&before);
	for (int i = 0; i < N; i++) {
		void *p = heap_malloc(1 << 20);

		assert_ptr_equal(heap_realloc(p, 600000), p);
		sample_get_total(&after);
		sum += (double)(after.live_bytes - before.live_bytes) / 600000;
		heap_free(p);
	}
	assert_true(fabs(sum - (double)N) < 6 * sqrt((double)N * .45));
	sample_get_total(&after);
	assert_int_equal(after.live_bytes, before.live_bytes);
}

static void test_lifetime_ranges(void **state)
{
	unsigned last = 0;

	(void)state;
	for (uint64_t ns = 0; ns < (uint64_t)1 << 62; ns += ns / 19 + 1) {
		unsigned n = lifetime_range(ns);

		assert_true(n == last || n == last + 1);
		assert_true(lifetime_bound(n) <= ns && ns < lifetime_bound(n + 1));
		assert_int_equal(lifetime_range(lifetime_bound(n)), n);
		last = n;
	}
	assert_true(lifetime_range(UINT64_MAX) < 256); /* a byte of the key */
}

static void test_records(void **state)
{
	uint32_t index;
	struct mspan *s;
	void *p;

	(void)state;
	heap_set_budget(-1);
	p = heap_malloc(1000);
	s = heap_find((uintptr_t)p, &index);
	assert_non_null(sample_find(s, index));
	assert_int_equal(sample_size_asked(s, index), 1000);
	heap_free(p);
	assert_null(sample_find(s, index));
	heap_set_budget(-1);
	p = heap_malloc(1000000);
	s = heap_find((uintptr_t)p, &index);
	assert_int_equal(sample_size_asked(s, index), 1000000);
	p = heap_realloc(p, 1000100);
	s = heap_find((uintptr_t)p, &index);
	assert_int_equal(sample_size_asked(s, index), 1000100);
	heap_free(p);
}

#define EVENTS 1000 /* of a thread: more than it counts before it has a share */
#define BYTES  100000

static uint32_t number; /* of counters */

static void *count_much(void *arg)
{
	thread_register(0, true);
	heap_thread_start();
	for (int i = 0; i < EVENTS; i++) {
		count_sample_beside(number, 3 << SITE_SHIFT, BYTES);
		if (i % 2)
			count_sample_free_beside(number, 3 << SITE_SHIFT, BYTES);
	}
	sample_thread_end();
	share_thread_end();
	unwind_thread_end();
	heap_thread_exit();
	thread_finished();
	return arg;
}

/* Threads beside each other count first together and then each for itself; the sum is
 * what they made. */
static void test_beside(void **state)
{
	const uint64_t n = 2 * EVENTS;
	uint32_t site = site_child(SITE_NONE, (uintptr_t)test_beside);
	struct sample_total before, after;
	pthread_t threads[2];

	(void)state;
	assert_non_null(site_counters(site));
	number = site_number(site);
	thread_become_many();
	sample_get_total(&before);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count_much, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	sample_get_total(&after);
	assert_true(share_is_used());
	assert_in_range(site_counters(site)->samples, 2, n / 2);
	assert_int_equal(after.samples - before.samples, n);
	assert_int_equal(after.alloc_objects - before.alloc_objects, 3 * n);
	assert_int_equal(after.alloc_bytes - before.alloc_bytes, BYTES * n);
	assert_int_equal(after.live_objects - before.live_objects, 3 * n / 2);
	assert_int_equal(after.live_bytes - before.live_bytes, BYTES * n / 2);
	assert_in_range(after.peak_bytes - before.live_bytes, BYTES * n / 2, BYTES * n);
}

static void *sampled(size_t size)
{
	heap_set_budget(-1);
	return heap_malloc(size);
}

static const struct sample_record *record_of(const void *p)
{
	uint32_t index;
	const struct mspan *s = heap_find((uintptr_t)p, &index);

	return sample_find(s, index);
}

#define MANY 300

/* Spans with one recorded object, with some, with all, and all ways between them: what
 * lives has its record, what was freed or never recorded has none. */
static void test_many_of_a_span(void **state)
{
	static void *plain[MANY], *recorded[MANY];
	struct sample_total before, after;

	(void)state;
	sample_get_total(&before);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < MANY; i++) {
			recorded[i] = sampled(48);
			heap_set_budget(1 << 30);
			plain[i] = heap_malloc(48);
		}
		for (int i = 0; i < MANY; i++) {
			int k = i * 7 % MANY; /* 7 does not divide MANY: all of them */

			assert_non_null(record_of(recorded[k]));
			assert_null(record_of(plain[k]));
			heap_free(recorded[k]);
			assert_null(record_of(recorded[k]));
			heap_free(plain[k]);
		}
	}
	sample_get_total(&after);
	assert_int_equal(after.live_bytes, before.live_bytes);
	assert_int_equal(after.live_objects, before.live_objects);
	heap_set_budget(1 << 30);
}

static void *churn(void *arg)
{
	void *kept[32] = { 0 };
	uint64_t random = (uintptr_t)arg;

	for (int i = 0; i < 20000; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		heap_free(kept[random >> 59]);
		kept[random >> 59] = random >> 40 & 1 ? sampled(16) : heap_malloc(16);
	}
	for (int i = 0; i < 32; i++)
		heap_free(kept[i]);
	heap_thread_exit();
	return NULL;
}

/* Threads that share spans: each record goes with its object. */
static void test_threads_of_a_span(void **state)
{
	pthread_t threads[4];
	struct sample_total before, after;

	(void)state;
	sample_get_total(&before);
	atomic_store_relaxed(&thread_are_many, true); /* as pthread_create() would */
	for (uintptr_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	sample_get_total(&after);
	assert_int_equal(after.live_bytes, before.live_bytes);
	assert_int_equal(after.live_objects, before.live_objects);
}

/* One recorded object a span takes little memory, however many slots the span has. */
static void test_memory_of_few(void **state)
{
	enum { SPANS = 64, SLOTS = 1024 };
	static void *objects[SPANS * SLOTS];
	size_t before = meta_bytes(META_SAMPLE);

	(void)state;
	for (int i = 0; i < SPANS * SLOTS; i++) {
		heap_set_budget(i % SLOTS ? 1 << 30 : -1);
		objects[i] = heap_malloc(16);
	}
	assert_true(meta_bytes(META_SAMPLE) - before <= 64 * KIB);
	for (int i = 0; i < SPANS * SLOTS; i++)
		heap_free(objects[i]);
}

/* Spans that go take all of their records along, whichever block these are in. */
static void test_memory_of_many(void **state)
{
	enum { OBJECTS = 4000, ROUNDS = 30, SETTLED = 3 };
	static void *objects[OBJECTS];
	size_t before = 0;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < OBJECTS; i++)
			objects[i] = sampled(48);
		for (int i = 0; i < OBJECTS; i++)
			heap_free(objects[i]);
		heap_trim();
		if (round == SETTLED)
			before = meta_bytes(META_SAMPLE);
	}
	assert_int_equal(meta_bytes(META_SAMPLE), before);
	heap_set_budget(1 << 30);
}

/* The field of a followed object's birth has come round, or will before it is read. */
static void test_packed_birth(void **state)
{
	const uint64_t unit = (uint64_t)1 << RECORD_BIRTH_SHIFT, day = 86400000000000u;
	const uint64_t ages[] = { 0, unit, 3600000000000u, 100 * day, 208 * day };

	(void)state;
	for (uint64_t now = 209 * day; now < 2000 * day; now += 97 * day + 12345)
		for (size_t i = 0; i < ARRAY_LEN(ages); i++) {
			uint64_t born = now - ages[i];
			uint32_t packed = (uint32_t)(born >> RECORD_BIRTH_SHIFT);

			assert_int_equal(record_birth_ns(packed, now),
					 born / unit * unit);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_maths),
		cmocka_unit_test(test_exponential),
		cmocka_unit_test(test_exponential_distribution),
		cmocka_unit_test(test_weight),
		cmocka_unit_test(test_counted),
		cmocka_unit_test(test_unbiased),
		cmocka_unit_test(test_shrunk),
		cmocka_unit_test(test_records),
		cmocka_unit_test(test_lifetime_ranges),
		cmocka_unit_test(test_packed_birth),
		cmocka_unit_test(test_many_of_a_span),
		cmocka_unit_test(test_memory_of_few),
		cmocka_unit_test(test_beside), /* from here on threads are many */
		cmocka_unit_test(test_threads_of_a_span),
		cmocka_unit_test(test_memory_of_many),
	};

	opt_init("mode=sampled:seed=42");
	module_refresh();
	unwind_init();
	heap_thread_start();
	sample_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
