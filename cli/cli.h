/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_CLI_CLI_H
#define PENSTOCK_CLI_CLI_H
/*
 * The subcommands of the one binary and the few helpers they share. Each
 * command gets "penstock COMMAND" as argv[0], which getopt puts before its words;
 * exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLI_OK     0
#define CLI_FAILED 1
#define CLI_USAGE  2

struct cli_cmd {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help; /* one line */
};

int cmd_run(int argc, char **argv);
int cmd_up(int argc, char **argv);
int cmd_down(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_stage(int argc, char **argv);
int cmd_gateway(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_host(int argc, char **argv);

/* Prints "penstock COMMAND: text" and returns CLI_FAILED (or CLI_USAGE). */
int cli_fail(const char *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_usage(const char *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* After getopt has said what is wrong: points to --help and returns CLI_USAGE. */
int cli_see_help(const char *cmd);

/* Whole-string numbers within bounds; on error a message naming the option, and false. */
bool cli_u32(const char *cmd, const char *option, const char *text, uint32_t min, uint32_t max,
	     uint32_t *out);
bool cli_u64(const char *cmd, const char *option, const char *text, uint64_t *out);
bool cli_f32(const char *cmd, const char *option, const char *text, float min, float max, float *out);

/* "1,2,3" -> malloc'd ids; "" -> none. */
bool cli_ids(const char *cmd, const char *option, const char *text, int32_t **ids_out, size_t *n_out);

/* All of a stream, malloc'd and terminated; NULL on a read error or beyond `max` bytes. */
char *cli_read_all(int fd, size_t max, size_t *len_out);

/* The p-quantile (0..1) of n values; sorts them. Nearest rank. 0 when n is 0. */
uint64_t cli_quantile_u64(uint64_t *values, size_t n, double p);

#endif
