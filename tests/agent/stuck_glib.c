/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stuck_glib: threads of GLib's that wait: pools that idle, which are no leak, and
 * threads whose queue or condition nobody has any more. These are made with
 * pthread_create(), for GLib itself keeps what a thread of its own was started with. The
 * argument names the case.
 */
#include <glib.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

void wait_until_all_wait(void);

#define APART __attribute__((noinline))

static GThreadPool *pool;
static GAsyncQueue *known;

struct box {
	GMutex lock;
	GCond filled;
	gboolean full;
};

static void work(gpointer data, gpointer user)
{
	(void)user;
	g_atomic_int_inc((gint *)data);
}

static APART void fill_pool(gboolean exclusive)
{
	static gint done;

	pool = g_thread_pool_new(work, NULL, 4, exclusive, NULL);
	for (int i = 0; i < 100; i++)
		g_thread_pool_push(pool, &done, NULL);
	while (g_atomic_int_get(&done) < 100)
		g_thread_yield();
}

static gpointer take(gpointer queue)
{
	prctl(PR_SET_NAME, queue == known ? "fine" : "stuck");
	return g_async_queue_pop(queue);
}

static gpointer wait_for_box(gpointer data)
{
	struct box *b = data;

	prctl(PR_SET_NAME, "stuck");
	g_mutex_lock(&b->lock);
	while (!b->full)
		g_cond_wait(&b->filled, &b->lock);
	return NULL;
}

static APART void start(void *(*fn)(void *), void *arg)
{
	pthread_t t;

	pthread_create(&t, NULL, fn, arg);
}

static APART void make(const char *what)
{
	if (strcmp(what, "pool") == 0)
		fill_pool(FALSE);
	else if (strcmp(what, "exclusive-pool") == 0)
		fill_pool(TRUE);
	else if (strcmp(what, "queue-known") == 0)
		g_thread_unref(g_thread_new("fine", take, known = g_async_queue_new()));
	else if (strcmp(what, "queue") == 0)
		start(take, g_async_queue_new());
	else if (strcmp(what, "condition") == 0)
		start(wait_for_box, g_new0(struct box, 1));
	else
		_exit(2);
}

/* On a stack that ends with it, where old pointers may stand. */
static void *starter(void *what)
{
	make(what);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t t;
	char c;

	pthread_create(&t, NULL, starter, argv[argc - 1]);
	pthread_join(t, NULL);
	wait_until_all_wait();
	if (write(1, "up\n", 3) != 3)
		return 1;
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
