/* Where the installation is, and what of it answers: it may lie on a file system that is gone, or hangs. */
#ifndef PERUN_PREFIX_H
#define PERUN_PREFIX_H

#include <stdbool.h>
#include <stddef.h>

/* Read a file that is root's or this user's own and that nobody else can write; returns whether there is one. */
bool trusted_read(const char *path, char *text, size_t size);

/* Shorten PREFIX/DIRECTORY/perun/NAME to PREFIX; false if it is no such path. */
bool prefix_of(char *path);

/* The installation prefix: the line of `file`, if it can be trusted, or else where this binary lies: PREFIX/libexec/perun/NAME.
 * Nothing in the prefix is touched. */
bool prefix_find(const char *file, char *path, size_t size);

/* There while a hook looks whether the prefix answers. Of several processes that look at once only the first can be killed: as
 * long as this one is stuck, no process of a job may follow. */
#ifndef PERUN_RUN_DIR
#define PERUN_RUN_DIR "/run/perun"
#endif
#define PREFIX_ASKED PERUN_RUN_DIR "/prefix-asked"

/* A hook's process, outside of any job, looks whether the file is there; for ever where its file system hangs. */
void prefix_ask(const char *path);

/* From here on the prefix is looked at from within a job, by a child that is given up after a second; not at all where a hook's
 * process is stuck. */

/* Whether there is a program that this user may run. */
bool program_answers(const char *path);

/* PREFIX/lib/python3.N/site-packages/perun_hpc/inject, if it is there. */
bool launcher_directory(const char *prefix, char *path, size_t size);

#endif
