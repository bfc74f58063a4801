/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output: a file that another process writes for us and that appears under its name only
 * when it is whole.
 */
#ifndef TOOLS_LIB_OUTPUT_H
#define TOOLS_LIB_OUTPUT_H

struct output {
	int fd;
	int to;		 /* where it is copied at the end; -1: nowhere */
	char *path;	 /* where it will be; NULL: to is used */
	char *temporary; /* its name until then; NULL: none */
};

/* path: "-" for standard output, NULL for seep.out/PROGRAM.PID.KIND.pb.gz, numbered when
 * that is there. Mode 0600. Dies with 24. */
void output_open(struct output *o, const char *path, int pid, const char *kind);
/* The file is whole: shows it. */
void output_finish(struct output *o);
/* Writes all of file fd to the descriptor to, whose name is for the message. Dies
 * with 24. */
void output_copy(int fd, int to, const char *name);

#endif
