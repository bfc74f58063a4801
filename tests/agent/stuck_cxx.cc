// SPDX-License-Identifier: Apache-2.0
// stuck_cxx: C++ threads: one whose queue is lost, one whose queue main() holds.
#include <condition_variable>
#include <mutex>
#include <pthread.h>
#include <sys/prctl.h>
#include <thread>
#include <unistd.h>

struct Queue {
	std::mutex lock;
	std::condition_variable more;
	bool full = false;

	void take(const char *name)
	{
		prctl(PR_SET_NAME, name);
		std::unique_lock<std::mutex> hold(lock);
		waiting = true;
		more.wait(hold, [this] { return full; });
	}
	bool waiting = false;
	bool waits()
	{
		std::unique_lock<std::mutex> hold(lock);
		return waiting;
	}
};

static Queue *volatile held;

__attribute__((noinline)) static void lose()
{
	Queue *q = new Queue;

	std::thread([q] { q->take("stuck"); }).detach();
	while (!q->waits())
		;
}

__attribute__((noinline)) static void hold()
{
	held = new Queue;
	std::thread([] { held->take("fine"); }).detach();
	while (!held->waits())
		;
}

int main()
{
	char c;

	lose();
	hold();
	if (write(1, "up\n", 3) != 3)
		return 1;
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
