/* SPDX-License-Identifier: Apache-2.0 */
/*
 * objects: C++ programs with known leaks and known non-leaks, one a case; run by
 * run_leak.py.
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/leak/lose.h"

namespace
{

struct left {
	virtual ~left() = default;
	long a = 1;
};

struct right {
	virtual ~right() = default;
	long b = 2;
};

struct both : left, right {
	long c = 3;
};

struct named {
	char *name = static_cast<char *>(std::calloc(1, 40));

	~named()
	{
		std::free(name);
	}
};

struct alignas(32) named32 : named {
};

struct alignas(64) named64 : named {
};

template <typename T> T *hold(T *p)
{
	__asm__ volatile("" : "+r"(p) : : "memory");
	return p;
}

std::vector<long> *volatile kept_vector;
std::map<std::string, std::string> *volatile kept_map;
std::string *volatile kept_string;
right *volatile kept_base;
std::shared_ptr<both> kept_shared;
both *volatile kept_array;
named32 *volatile kept_array32;
named64 *volatile kept_array64;
named *volatile kept_empty;
std::exception_ptr *volatile kept_exception;

APART void lose_new()
{
	hold(new both);
}

APART void lose_array()
{
	hold(new long[100]);
}

APART void lose_vector()
{
	hold(new std::vector<long>(1000, 7));
}

APART void lose_string()
{
	hold(new std::string(200, 'x'));
}

APART void lose_map()
{
	auto *m = hold(new std::map<int, long>);

	for (int i = 0; i < 10; i++)
		(*m)[i] = i;
}

APART void lose_exception()
{
	try {
		hold(new both);
		throw std::string("gone");
	} catch (const std::string &) {
	}
}

APART void keep_vector()
{
	kept_vector = new std::vector<long>(1000, 7);
}

APART void keep_string()
{
	kept_string = new std::string(200, 'x');
}

APART void keep_map()
{
	kept_map = new std::map<std::string, std::string>;
	for (int i = 0; i < 100; i++)
		(*kept_map)[std::string(40, 'k') + std::to_string(i)] =
			std::string(100, 'v');
}

/* Only a pointer to the second base: inside the object. */
APART void keep_second_base()
{
	kept_base = new both;
}

/* new[] of a type with a destructor: the pointer lies behind the count. */
APART void keep_array()
{
	kept_array = new both[7];
}

/* Of aligned elements: the count is padded to their alignment. */
APART void keep_array32()
{
	kept_array32 = new named32[3];
}

APART void keep_array64()
{
	kept_array64 = new named64[10];
}

/* There is the count only. */
APART void keep_empty_array()
{
	volatile size_t none = 0;

	kept_empty = new named[none];
}

/* Behind a header, with a text behind another. */
APART std::exception_ptr *catch_error()
{
	try {
		throw std::runtime_error(std::string(60, 'e'));
	} catch (...) {
		return new std::exception_ptr(std::current_exception());
	}
}

APART void keep_exception()
{
	kept_exception = catch_error();
}

APART void lose_exception_pointer()
{
	hold(catch_error());
}

/* Only the library has it. */
APART void keep_caught()
{
	try {
		throw std::runtime_error(std::string(60, 'e'));
	} catch (...) {
		std::exit(0);
	}
}

/* The compiler is not to see that nothing gets past it. */
volatile bool never;

struct exits {
	~exits()
	{
		if (!never)
			std::exit(0);
	}
};

/* Only the frame that is left has it: a pointer to the unwinder's part. */
APART void throw_through()
{
	exits e;

	throw std::runtime_error(std::string(60, 'e'));
}

APART void keep_in_flight()
{
	try {
		throw_through();
	} catch (...) {
	}
}

/* Which holds the one that was thrown first by reference. */
APART void throw_again()
{
	std::exception_ptr *p = catch_error();
	std::exception_ptr again = *p;
	exits e;

	delete p;
	std::rethrow_exception(std::move(again));
}

APART void keep_in_flight_again()
{
	try {
		throw_again();
	} catch (...) {
	}
}

APART void keep_shared()
{
	kept_shared = std::make_shared<both>();
}

APART void keep_local_static()
{
	static std::vector<std::string> list(20, std::string(64, 'y'));

	hold(&list);
}

APART void keep_thrown()
{
	try {
		throw std::string(300, 'z');
	} catch (const std::string &s) {
		if (s.size() != 300)
			std::exit(99);
	}
}

const struct {
	const char *name;
	void (*run)();
} cases[] = {
	{ "new", lose_new },
	{ "array", lose_array },
	{ "vector", lose_vector },
	{ "string", lose_string },
	{ "map", lose_map },
	{ "exception", lose_exception },
	{ "exception-pointer", lose_exception_pointer },
	{ "keep-vector", keep_vector },
	{ "keep-string", keep_string },
	{ "keep-map", keep_map },
	{ "keep-second-base", keep_second_base },
	{ "keep-array", keep_array },
	{ "keep-array32", keep_array32 },
	{ "keep-array64", keep_array64 },
	{ "keep-empty-array", keep_empty_array },
	{ "keep-exception", keep_exception },
	{ "keep-caught", keep_caught },
	{ "keep-in-flight", keep_in_flight },
	{ "keep-in-flight-again", keep_in_flight_again },
	{ "keep-shared", keep_shared },
	{ "keep-local-static", keep_local_static },
	{ "keep-thrown", keep_thrown },
};

} // namespace

int main(int argc, char **argv)
{
	for (const auto &c : cases)
		if (argc > 1 && std::strcmp(argv[1], c.name) == 0) {
			c.run();
			scrub();
			return 0;
		}
	std::fprintf(stderr, "objects: no such case\n");
	return 97;
}
