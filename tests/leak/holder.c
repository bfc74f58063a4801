/* SPDX-License-Identifier: Apache-2.0 */
/* A library whose bss and thread-local storage hold pointers. */
void *holder_bss;
__thread void *holder_tls[64];

void holder_set_tls(void *p)
{
	holder_tls[40] = p;
}
