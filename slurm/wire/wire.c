#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

enum { VERB_MAX = 32, KEY_MAX = 64 };

static bool is_name(const char *text, size_t longest, char joint)
{
	size_t length = strlen(text);

	if (length == 0 || length > longest || text[0] < 'a' || text[0] > 'z')
		return false;
	for (size_t i = 1; i < length; i++) {
		char c = text[i];

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == joint))
			return false;
	}
	return true;
}

static void append(struct wire_message *message, const char *text)
{
	size_t length = strlen(text) + 1;

	if (message->damaged || length > WIRE_MAX - message->size) {
		message->damaged = true;
		return;
	}
	memcpy(message->data + message->size, text, length);
	message->size += length;
}

void wire_begin(struct wire_message *message, const char *verb)
{
	message->size = 0;
	message->damaged = !is_name(verb, VERB_MAX, '-');
	append(message, WIRE_VERSION);
	append(message, verb);
}

void wire_add(struct wire_message *message, const char *key, const char *value)
{
	if (value == NULL)
		return;
	if (!is_name(key, KEY_MAX, '_')) {
		message->damaged = true;
		return;
	}
	append(message, key);
	append(message, value);
}

void wire_add_number(struct wire_message *message, const char *key, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	wire_add(message, key, text);
}

/* The string after the one at `at`; NULL at the end. Only for data that end in NUL. */
static const char *next(const char *at, const char *end)
{
	at += strlen(at) + 1;
	return at < end ? at : NULL;
}

static bool has_key_before(const char *first, const char *key)
{
	for (const char *at = first; at != key;) {
		if (strcmp(at, key) == 0)
			return true;
		at += strlen(at) + 1; /* the value */
		at += strlen(at) + 1; /* the next key */
	}
	return false;
}

bool wire_valid(const char *data, size_t size)
{
	const char *end = data + size;
	const char *verb, *first;

	if (size == 0 || size > WIRE_MAX || data[size - 1] != '\0' || strcmp(data, WIRE_VERSION) != 0)
		return false;
	verb = next(data, end);
	if (verb == NULL || !is_name(verb, VERB_MAX, '-'))
		return false;
	first = next(verb, end);
	for (const char *key = first; key != NULL;) {
		const char *value = next(key, end);

		if (value == NULL || !is_name(key, KEY_MAX, '_') || has_key_before(first, key))
			return false;
		key = next(value, end);
	}
	return true;
}

const char *wire_verb(const struct wire_message *message)
{
	return next(message->data, message->data + message->size);
}

const char *wire_get(const struct wire_message *message, const char *key)
{
	const char *end = message->data + message->size;

	for (const char *at = next(wire_verb(message), end); at != NULL; at = next(next(at, end), end))
		if (strcmp(at, key) == 0)
			return next(at, end);
	return NULL;
}

int64_t wire_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* Bound the next call on the socket. The kernel's own timeouts also bound a connect to a full queue, which a
 * non-blocking AF_UNIX connect cannot wait for (EAGAIN, and poll shows nothing). */
static int limit(int fd, int option, int64_t deadline_ns)
{
	int64_t left_ns = deadline_ns - wire_now_ns();
	struct timeval left;

	if (left_ns <= 0)
		return -ETIMEDOUT;
	left.tv_sec = left_ns / NS_PER_S;
	left.tv_usec = left_ns % NS_PER_S / 1000;
	if (left.tv_sec == 0 && left.tv_usec == 0)
		left.tv_usec = 1; /* zero would mean for ever */
	return setsockopt(fd, SOL_SOCKET, option, &left, sizeof(left)) == 0 ? 0 : -errno;
}

static int timed_out(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK ? -ETIMEDOUT : -error;
}

int wire_connect(const char *path, int64_t deadline_ns)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, rc;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	do {
		rc = limit(fd, SO_SNDTIMEO, deadline_ns);
		if (rc == 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
			rc = timed_out(errno);
	} while (rc == -EINTR);
	if (rc != 0) {
		close(fd);
		return rc;
	}
	return fd;
}

int wire_exchange(int fd, const struct wire_message *request, struct wire_message *reply, int64_t deadline_ns)
{
	ssize_t n;
	int rc;

	if (request->damaged)
		return -EBADMSG;
	do {
		rc = limit(fd, SO_SNDTIMEO, deadline_ns);
		if (rc == 0 && send(fd, request->data, request->size, MSG_NOSIGNAL) < 0)
			rc = timed_out(errno);
	} while (rc == -EINTR);
	if (rc != 0)
		return rc;
	do {
		rc = limit(fd, SO_RCVTIMEO, deadline_ns);
		if (rc != 0)
			return rc;
		n = recv(fd, reply->data, sizeof(reply->data), 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return timed_out(errno);
	if (n == 0)
		return -ECONNRESET;
	reply->size = (size_t)n;
	reply->damaged = !wire_valid(reply->data, reply->size);
	return reply->damaged ? -EBADMSG : 0;
}
