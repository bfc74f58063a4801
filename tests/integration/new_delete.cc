// SPDX-License-Identifier: Apache-2.0
// The 20 replaceable operators: alignment, failure, new-handler, nothrow.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>

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

int main()
{
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
	printf("failures %d\n", failures);
	return failures != 0;
}
