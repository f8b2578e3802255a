/* The wire format between hook, perun-launch and the node's agent: one packet of an AF_UNIX SOCK_SEQPACKET socket is
 * one message of NUL-terminated strings: "perun1", a verb, then key and value in turn. The Python twin is
 * perun_hpc/wire/message.py. Nothing here allocates memory. */
#ifndef PERUN_WIRE_H
#define PERUN_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION "perun1"
#define WIRE_MAX 32768

struct wire_message {
	size_t size;
	bool damaged; /* something did not fit or had a forbidden shape: must not be sent */
	char data[WIRE_MAX + 1];
};

/* Start a message. */
void wire_begin(struct wire_message *message, const char *verb);

/* Append a key and its value; a NULL value appends nothing. */
void wire_add(struct wire_message *message, const char *key, const char *value);

/* Append a key and a number. */
void wire_add_number(struct wire_message *message, const char *key, int64_t value);

/* Whether `size` bytes at `data` are a well-formed message. */
bool wire_valid(const char *data, size_t size);

/* The verb of a valid message. */
const char *wire_verb(const struct wire_message *message);

/* The value of a key of a valid message, NULL if it has none. */
const char *wire_get(const struct wire_message *message, const char *key);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t wire_now_ns(void);

/* Connect before a deadline (wire_now_ns). Returns a descriptor or -errno; ETIMEDOUT if the deadline passed. */
int wire_connect(const char *path, int64_t deadline_ns);

/* Send a message and wait for its reply until the deadline. Returns 0 or -errno: ETIMEDOUT, ECONNRESET if the agent
 * closed the connection, EBADMSG if the reply is malformed or the request damaged. */
int wire_exchange(int fd, const struct wire_message *request, struct wire_message *reply, int64_t deadline_ns);

#endif
