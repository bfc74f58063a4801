// SPDX-License-Identifier: Apache-2.0
// cases_cxx: the ways out of a function that only C++ has. As in cases.c each case is one
// function make_CASE; test_cases.py has the depth and the place that must be found.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#define ROUNDS	  50
#define BARRIER() __asm__ volatile("" : : : "memory")
#define KEEP(p)	  __asm__ volatile("" : "+r"(p) : : "memory")
#define INLINE	  __attribute__((always_inline)) inline
#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone))
#endif

extern "C" {

// ---- freed by a destructor at the end of the scope ----

struct Scoped {
	char *p;
	INLINE explicit Scoped(size_t n) : p(new char[n])
	{
		KEEP(p);
	}
	INLINE ~Scoped()
	{
		delete[] p;
		BARRIER();
	}
};

NOINLINE void make_scoped()
{
	Scoped s(48);

	s.p[0] = 1;
	BARRIER();
}

// The same with constructor and destructor as functions of their own: the object is in
// the memory of the constructor's caller.
struct Owner {
	char *p;
	NOINLINE Owner();
	NOINLINE ~Owner();
};

NOINLINE void make_owner(Owner *o)
{
	o->p = static_cast<char *>(malloc(56));
	KEEP(o->p);
	BARRIER();
}

Owner::Owner()
{
	make_owner(this);
	BARRIER();
}

Owner::~Owner()
{
	free(p);
	BARRIER();
}

NOINLINE void case_owner()
{
	Owner o;

	o.p[0] = 1;
	BARRIER();
}

// ---- exceptions ----

void *in_flight;

// Past the function that allocated, caught two frames further out and freed there.
NOINLINE void make_thrown()
{
	in_flight = malloc(64);
	BARRIER();
	throw 7;
}

NOINLINE void pass_thrown()
{
	make_thrown();
	BARRIER();
}

NOINLINE void case_thrown()
{
	try {
		pass_thrown();
	} catch (int n) {
		free(in_flight);
		in_flight = nullptr;
	}
	BARRIER();
}

NOINLINE void fail()
{
	BARRIER();
	throw std::runtime_error("no");
}

// Freed by a destructor while the exception passes.
NOINLINE void make_cleaned()
{
	Scoped s(72);

	fail();
	BARRIER();
}

NOINLINE void case_cleaned()
{
	try {
		make_cleaned();
	} catch (const std::runtime_error &) {
		BARRIER();
	}
}

// Freed by the allocating function, which caught what came from further in.
NOINLINE void make_caught()
{
	char *p = static_cast<char *>(malloc(80));

	KEEP(p);
	try {
		fail();
	} catch (const std::runtime_error &) {
		p[0] = 1;
	}
	free(p);
	BARRIER();
}

// ---- behind a table of virtual functions ----

struct Shape {
	virtual double area() const = 0;
	virtual ~Shape() = default;
};

struct Square : Shape {
	double side = 2;
	char filler[72];
	double area() const override
	{
		return side * side;
	}
};

NOINLINE Shape *make_shape()
{
	Square *s = new (malloc(sizeof(Square))) Square;

	KEEP(s);
	return s;
}

NOINLINE void case_shape()
{
	Shape *s = make_shape();

	if (s->area() != 4)
		abort();
	s->~Shape();
	free(s);
	BARRIER();
}

// ---- captured by a function object that is returned ----

struct Capture {
	char *p;
	INLINE int operator()() const
	{
		return p[0];
	}
};

NOINLINE void make_captured(std::function<int()> *out)
{
	char *p = static_cast<char *>(malloc(112));

	p[0] = 3;
	KEEP(p);
	*out = Capture{ p };
	BARRIER();
}

NOINLINE void case_captured()
{
	std::function<int()> f;

	make_captured(&f);
	if (f() != 3)
		abort();
	free(f.target<Capture>()->p);
	BARRIER();
}

// ---- containers, freed by their destructors; the library's functions in between ----

NOINLINE void make_vector()
{
	std::vector<char> v(120);
	char *p = v.data();

	KEEP(p);
	BARRIER();
}

NOINLINE void make_unique()
{
	auto owner = std::make_unique<char[]>(136);
	char *p = owner.get();

	KEEP(p);
	BARRIER();
}
}

int main()
{
	for (int i = 0; i < ROUNDS; i++) {
		make_scoped();
		case_owner();
		case_thrown();
		case_cleaned();
		make_caught();
		case_shape();
		case_captured();
		make_vector();
		make_unique();
	}
	puts("done");
	return 0;
}
