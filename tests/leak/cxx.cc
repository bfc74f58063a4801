// SPDX-License-Identifier: Apache-2.0
// C++ programs that lose nothing though they look so, and some that do, by name.
#include <cstdio>
#include <cstring>
#include <exception>
#include <list>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

struct Base {
	virtual ~Base() = default;
	long base = 1;
};
struct Other {
	virtual ~Other() = default;
	long other = 2;
};
struct Derived : Base, Other {
	std::string text = std::string(100, 'x');
};

std::vector<std::string> *strings;
std::map<std::string, std::vector<int>> table;
Other *second_base;
std::shared_ptr<Derived> shared;
Derived *array;
thread_local std::list<std::string> per_thread;

__attribute__((noinline)) static void scrub()
{
	volatile char buf[16384];

	memset(const_cast<char *>(buf), 0, sizeof(buf));
}

__attribute__((noinline)) static void hold()
{
	strings = new std::vector<std::string>(50, std::string(100, 's'));
	for (int i = 0; i < 100; i++)
		table[std::to_string(i)].assign(20, i);
	second_base = new Derived;
	shared = std::make_shared<Derived>();
	array = new Derived[7];
	per_thread.assign(10, std::string(64, 't'));
}

__attribute__((noinline)) static void lose()
{
	Derived *volatile lost = new Derived; // 1 object and the text of 101 bytes

	lost = nullptr;
}

__attribute__((noinline)) static void throw_and_catch()
{
	for (int i = 0; i < 100; i++) {
		try {
			throw std::runtime_error(std::string(200, 'e'));
		} catch (const std::exception &e) {
			if (strlen(e.what()) != 200)
				abort();
		}
	}
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "lose"))
		lose();
	else if (argc > 1 && !strcmp(argv[1], "throw"))
		throw_and_catch();
	else
		hold();
	scrub();
	return 0;
}
