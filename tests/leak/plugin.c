/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plugin: a library to be opened at run time that can hold a pointer in its bss and in
 * its thread-local storage (of the dynamic kind, since it is opened late).
 */
void plugin_hold_bss(void *p);
void plugin_hold_tls(void *p);
void *plugin_take(void);

static void *volatile in_bss[64];
static __thread void *volatile in_tls[64];

void plugin_hold_bss(void *p)
{
	in_bss[17] = p;
}

void plugin_hold_tls(void *p)
{
	in_tls[23] = p;
}

void *plugin_take(void)
{
	return in_bss[17] ? in_bss[17] : in_tls[23];
}
