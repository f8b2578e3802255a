/* Where the installation is, and what of it answers: it may lie on a file system that is gone, or hangs. */
#ifndef PERUN_PREFIX_H
#define PERUN_PREFIX_H

#include <stdbool.h>
#include <stddef.h>

/* Fixed at build time, so that no environment can move them; tests build with directories of their own. */
#ifndef PERUN_ETC_DIR
#define PERUN_ETC_DIR "/etc/perun"
#endif
#ifndef PERUN_RUN_DIR
#define PERUN_RUN_DIR "/run/perun"
#endif

/* Read a file that is root's or this user's own and that nobody else can write; returns whether there is one. */
bool trusted_read(const char *path, char *text, size_t size);

/* Shorten PREFIX/DIRECTORY/perun/NAME to PREFIX; false if it is no such path. */
bool prefix_of(char *path);

/* The installation prefix, in the one order that hooks, plugin and perun-launch keep: the line of /etc/perun/prefix, if the file
 * can be trusted; `named`, unless it is NULL; that of `own`, a file PREFIX/DIRECTORY/perun/NAME (NULL: the running program's).
 * Nothing in the prefix is touched. False if the path is too long. */
bool prefix_find(const char *named, const char *own, char *path, size_t size);

/* There while a hook looks whether the prefix answers. Of several processes that look at once only the first can be killed: as
 * long as this one is stuck, no process of a job may follow. */
#define PREFIX_ASKED PERUN_RUN_DIR "/prefix-asked"

/* A hook's process, outside of any job, looks whether the file is there; for ever where its file system hangs. */
void prefix_ask(const char *path);

/* From here on the prefix is looked at from within a job, by a child that is given up after a second; not at all where a hook's
 * process is stuck. */

/* Whether there is a program that this user may run. */
bool program_answers(const char *path);

/* PREFIX/lib/python3.N/site-packages/perun_hpc/inject/path, if it is there: that of the interpreter which PREFIX/bin/python is, or which
 * PREFIX/pyvenv.cfg names; where there is none of it, the only one there is. */
bool launcher_directory(const char *prefix, char *path, size_t size);

#endif
