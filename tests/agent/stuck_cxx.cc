// SPDX-License-Identifier: Apache-2.0
// stuck_cxx: what stuck.c does, with the C++ library's means. The argument names the
// case; with "known" before it, what is waited for stays in a global variable.
#include <atomic>
#include <barrier>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <future>
#include <latch>
#include <map>
#include <mutex>
#include <semaphore>
#include <shared_mutex>
#include <string>
#include <sys/prctl.h>
#include <thread>
#include <unistd.h>

#define APART __attribute__((noinline))

static const char *name = "stuck";
static void *volatile known;
static bool keeps;

struct Queue {
	std::mutex lock;
	std::condition_variable more;
	bool full = false;

	void take()
	{
		std::unique_lock<std::mutex> hold(lock);
		more.wait(hold, [this] { return full; });
	}
};

template <class T> static T *held(T *what)
{
	if (keeps)
		known = what;
	return what;
}

static APART void start(std::function<void()> wait)
{
	std::thread([wait] {
		prctl(PR_SET_NAME, name);
		wait();
	}).detach();
}

static APART void condition()
{
	Queue *q = held(new Queue);

	start([q] { q->take(); });
}

static APART void mutex()
{
	std::mutex *m = held(new std::mutex);

	m->lock();
	start([m] { m->lock(); });
}

static APART void deadlock()
{
	auto *locks = held(new std::mutex[2]);
	auto *both = new std::barrier<>(2);

	for (int i = 0; i < 2; i++)
		start([=] {
			std::lock_guard<std::mutex> first(locks[i]);
			both->arrive_and_wait();
			std::lock_guard<std::mutex> second(locks[1 - i]);
		});
}

static APART void future()
{
	auto *p = held(new std::promise<int>);

	start([f = std::make_shared<std::future<int>>(p->get_future())] { f->wait(); });
}

static APART void semaphore()
{
	auto *s = held(new std::counting_semaphore<>(0));

	start([s] { s->acquire(); });
}

static APART void latch()
{
	auto *l = held(new std::latch(1));

	start([l] { l->wait(); });
}

static APART void atomic_int()
{
	auto *a = held(new std::atomic<int>(7));

	start([a] { a->wait(7); });
}

// These wait on a word of the library's, as a barrier's waiters do.
static APART void flag()
{
	name = "fine";
	auto *f = held(new std::atomic_flag());

	start([f] { f->wait(false); });
}

static APART void atomic_long()
{
	name = "fine";
	auto *a = held(new std::atomic<long>(7));

	start([a] { a->wait(7); });
}

static APART void barrier()
{
	name = "fine";
	auto *b = held(new std::barrier<>(2));

	start([b] { b->arrive_and_wait(); });
}

static APART void shared_mutex()
{
	auto *m = held(new std::shared_mutex);

	m->lock();
	start([m] { m->lock_shared(); });
}

static APART void join()
{
	Queue *q = held(new Queue);
	auto *t = new std::thread([q] {
		prctl(PR_SET_NAME, name);
		q->take();
	});

	start([t] { t->join(); });
}

static APART void timed()
{
	Queue *q = new Queue;

	name = "fine";
	start([q] {
		std::unique_lock<std::mutex> hold(q->lock);
		q->more.wait_for(hold, std::chrono::hours(1), [q] { return q->full; });
	});
}

static const std::map<std::string, void (*)()> cases = {
	{ "condition", condition },
	{ "mutex", mutex },
	{ "deadlock", deadlock },
	{ "future", future },
	{ "semaphore", semaphore },
	{ "barrier", barrier },
	{ "latch", latch },
	{ "atomic", atomic_int },
	{ "atomic-flag", flag },
	{ "atomic-long", atomic_long },
	{ "shared_mutex", shared_mutex },
	{ "join", join },
	{ "timed", timed },
};

extern "C" void wait_until_all_wait(void);

int main(int argc, char **argv)
{
	char c;

	keeps = argc > 2;
	if (keeps)
		name = "fine";
	// On a stack that ends with it, where old pointers may stand.
	std::thread(cases.at(argv[argc - 1])).join();
	wait_until_all_wait();
	if (write(1, "up\n", 3) != 3)
		return 1;
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
