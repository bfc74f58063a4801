/* SPDX-License-Identifier: Apache-2.0 */
/* A library that registers fork handlers before anything is allocated. */
#ifndef TESTS_INTEGRATION_FORKER_H
#define TESTS_INTEGRATION_FORKER_H

/* Allocates under the lock that the handlers take. */
void forker_work(void);
/* Starts a thread of the library's that every fork ends. */
void forker_start(void);
/* Whether the last fork found one to end. */
int forker_has_ended(void);

#endif
