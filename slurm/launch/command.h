/* Which file slurmstepd would execute for a command; shared by perun-launch and the plugin. */
#ifndef PERUN_COMMAND_H
#define PERUN_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

/* Write the path that slurmstepd (22.05 to 25.11) passes to execve for `name` into `path` and return it: an absolute name
 * as it is; one that starts with a dot below the working directory; else the first file of that name (executable or
 * not) in a directory of `search` (PATH; may be NULL); else the name itself. NULL if it does not fit. */
const char *command_path(const char *name, const char *search, char *path, size_t size);

#endif
