/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commands: one function per subcommand, called with argv[0] the subcommand's name. The
 * result is the exit status.
 */
#ifndef TOOLS_COMMANDS_H
#define TOOLS_COMMANDS_H

int command_run(int argc, char **argv);
int command_gate(int argc, char **argv);
int command_recover(int argc, char **argv);
int command_heap(int argc, char **argv);  /* also allocs, peak */
int command_check(int argc, char **argv); /* also leak */
int command_set(int argc, char **argv);
int command_threads(int argc, char **argv);
int command_escape(int argc, char **argv);
int command_symbolize(int argc, char **argv);
int command_diff(int argc, char **argv);
int command_report(int argc, char **argv);

#endif
