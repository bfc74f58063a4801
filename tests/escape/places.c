/* SPDX-License-Identifier: Apache-2.0 */
/*
 * places: one line of the source that became several calls, and a pointer that is
 * returned as the second word of a structure.
 */
#include <stdlib.h>

#define NOINLINE __attribute__((noinline))
#define KEEP(p)	 __asm__ volatile("" : "+r"(p) : : "memory")
#define ROUNDS	 10

struct list {
	void *items[4];
};

/* What an unrolled loop looks like. */
#define PUT(l, i)  put_item(l, i)
#define PUT_ALL(l) (PUT(l, 0), PUT(l, 1), PUT(l, 2), PUT(l, 3))
#define GET(l, i)  ((l)->items[i] = malloc(40))
#define GET_ALL(l) (GET(l, 0), GET(l, 1), GET(l, 2), GET(l, 3))

NOINLINE void drop_all(struct list *l)
{
	for (int i = 0; i < 4; i++)
		free(l->items[i]);
	KEEP(l);
}

NOINLINE void put_item(struct list *l, int i)
{
	void *p = malloc(24);

	KEEP(p);
	l->items[i] = p;
}

NOINLINE void case_called(void)
{
	struct list l;

	PUT_ALL(&l);
	drop_all(&l);
}

NOINLINE void case_unrolled(void)
{
	struct list l;

	GET_ALL(&l);
	drop_all(&l);
}

NOINLINE void case_loop(void)
{
	struct list l;

	for (int i = 0; i < 4; i++) {
		KEEP(i);
		l.items[i] = malloc(56);
	}
	drop_all(&l);
}

struct any {
	const void *type;
	void *value;
};

NOINLINE struct any make_any(int n)
{
	int *p = malloc(72);

	KEEP(p);
	*p = n;
	return (struct any){ "int", p };
}

NOINLINE int case_any(void)
{
	struct any a = make_any(1);
	int n = *(int *)a.value;

	free(a.value);
	KEEP(n);
	return n;
}

/* Nothing of it is returned, but the pointer stays in the second register. */
NOINLINE char *make_not(char *text)
{
	void *p = malloc(88);

	KEEP(p);
	free(p);
	p = malloc(104);
	KEEP(p);
	*(void **)text = p;
	__asm__ volatile("" : : "d"(p) : "memory");
	return text;
}

NOINLINE void case_not(void)
{
	static char text[8] __attribute__((aligned(8)));

	free(*(void **)make_not(text));
	*(void **)text = NULL;
	__asm__ volatile("" : : : "memory");
}

int main(void)
{
	for (int i = 0; i < ROUNDS; i++) {
		case_called();
		case_unrolled();
		case_loop();
		case_any();
		case_not();
	}
	return 0;
}
