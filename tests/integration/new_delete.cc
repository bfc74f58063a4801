// SPDX-License-Identifier: Apache-2.0
// The 20 replaceable operators: alignment, failure, new-handler, nothrow.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <sys/resource.h>
#include <thread>

static int failures, handler_calls;

#define CHECK(cond)                                                  \
	do {                                                         \
		if (!(cond)) {                                       \
			printf("line %d: %s\n", __LINE__, #cond);    \
			failures++;                                  \
		}                                                    \
	} while (0)

static volatile std::size_t huge = SIZE_MAX / 2;

static void give_up()
{
	if (++handler_calls == 3)
		std::set_new_handler(nullptr);
}

static void throw_other()
{
	throw std::bad_alloc();
}

template <typename F> static bool throws(F f)
{
	try {
		f();
	} catch (const std::bad_alloc &) {
		return true;
	}
	return false;
}

static void *reserve;

// What a program does when memory is really out: it lets go of something.
static void give_reserve()
{
	handler_calls++;
	if (!reserve)
		throw std::bad_alloc();
	free(reserve);
	reserve = nullptr;
}

static void check_real_exhaustion()
{
	struct rlimit lim;
	void *list = nullptr;

	reserve = malloc(20 << 20);
	getrlimit(RLIMIT_AS, &lim);
	lim.rlim_cur = 250 << 20;
	setrlimit(RLIMIT_AS, &lim);
	while (void *p = malloc(1 << 20)) {
		*static_cast<void **>(p) = list;
		list = p;
	}
	handler_calls = 0;
	std::set_new_handler(give_reserve);
	void *p = ::operator new(10 << 20); // after one call of the handler
	CHECK(p && handler_calls == 1 && !reserve);
	CHECK(throws([] { return ::operator new(100 << 20); }) && handler_calls == 2);
	CHECK(::operator new(100 << 20, std::nothrow) == nullptr && handler_calls == 3);
	CHECK(::operator new[](100 << 20, std::align_val_t{64}, std::nothrow) == nullptr);
	std::set_new_handler(nullptr);
	CHECK(throws([] { return ::operator new[](100 << 20); }));
	::operator delete(p);
	while (list) {
		void *next = *static_cast<void **>(list);
		free(list);
		list = next;
	}
	::operator delete(::operator new(100 << 20));
}

// Destructors of thread_local objects allocate, while thread-specific data goes too.
struct Last {
	void *p = ::operator new(100);
	~Last()
	{
		::operator delete(p);
		delete[] new char[5000];
	}
};

static void check_threads()
{
	for (int i = 0; i < 200; i++)
		std::thread([] {
			static thread_local Last last;
			delete[] new char[last.p ? 10 : 20];
		}).join();
}

int main()
{
	check_threads();
	const std::align_val_t wide{256};

	::operator delete(::operator new(0));
	::operator delete(::operator new(100), 100);
	::operator delete[](::operator new[](100));
	::operator delete[](::operator new[](100), 100);
	::operator delete(::operator new(5, std::nothrow), std::nothrow);
	::operator delete[](::operator new[](5, std::nothrow), std::nothrow);
	void *p = ::operator new(100, wide);
	CHECK(reinterpret_cast<std::uintptr_t>(p) % 256 == 0);
	::operator delete(p, wide);
	::operator delete(::operator new(100, wide), 100, wide);
	p = ::operator new[](100, wide);
	CHECK(reinterpret_cast<std::uintptr_t>(p) % 256 == 0);
	::operator delete[](p, wide);
	::operator delete[](::operator new[](100, wide), 100, wide);
	::operator delete(::operator new(7, wide, std::nothrow), wide, std::nothrow);
	::operator delete[](::operator new[](7, wide, std::nothrow), wide, std::nothrow);

	CHECK(throws([] { return ::operator new(huge); }));
	CHECK(throws([] { return ::operator new[](huge); }));
	CHECK(throws([&] { return ::operator new(huge, wide); }));
	CHECK(throws([&] { return ::operator new[](huge, wide); }));
	CHECK(::operator new(huge, std::nothrow) == nullptr);
	CHECK(::operator new[](huge, std::nothrow) == nullptr);
	for (std::size_t n = SIZE_MAX - 600; n != 0; n++) { // libstdc++ 12 wraps here
		CHECK(::operator new(n, wide, std::nothrow) == nullptr);
		CHECK(::operator new[](n, wide, std::nothrow) == nullptr);
	}
	std::set_new_handler(give_up);
	CHECK(throws([] { return ::operator new(huge); }) && handler_calls == 3);
	std::set_new_handler(throw_other);
	CHECK(::operator new(huge, std::nothrow) == nullptr);
	std::set_new_handler(nullptr);
	check_real_exhaustion();
	printf("failures %d\n", failures);
	return failures != 0;
}
