/* The parts of the hook: settings, the inbox, starting the agent. */
#ifndef PERUN_HOOK_H
#define PERUN_HOOK_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../launch/prefix.h"
#include "../wire/wire.h"

/* Fixed at build time, as those of prefix.h. */
#ifndef PERUN_SPOOL_DIR
#define PERUN_SPOOL_DIR "/var/spool/perun"
#endif

enum {
	HOOK_DEADLINE_MIN_MS = 50,
	HOOK_DEADLINE_DEFAULT_MS = 500,
	HOOK_DEADLINE_MAX_MS = 5000,
	INBOX_MAX_FILES = 4096,
};

struct hook_settings {
	int deadline_ms;
	char policy[PATH_MAX]; /* PERUN_POLICY for an agent that the hook starts; empty = the agent's default */
};

/* Read hook.conf (lines of key=value). A file that is missing, some other user's, or writable by others does
 * not count; neither do lines that are not understood. */
struct hook_settings hook_settings_read(const char *path);

/* Make the run directory if it is missing. */
void run_directory_make(void);

/* Write a message beside its place in the inbox, before anything can go wrong; then it is kept or dropped with one system
 * call, which a signal handler may make. */
void inbox_prepare(const struct wire_message *message, const char *verb, int64_t now_ns);
void inbox_keep(void);
void inbox_drop(void);

/* Whether the inbox or the spool holds something that an agent should look after. */
bool inbox_or_sessions_wait(void);

/* Start the agent, detached; returns when it is out of the hook's process group or the deadline has passed: 0, -EAGAIN if
 * another hook is about to or an older agent has not ended yet, else -errno if there is nothing that could be run. */
int agent_start(const struct hook_settings *settings, int64_t deadline_ns);

#endif
