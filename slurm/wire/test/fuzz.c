/* Feed damaged packets to the reader, the same ones at every run: fuzz NUMBER. Built with the sanitizers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../wire.h"

static uint64_t state = 88172645463325252U;

static uint32_t random_below(uint32_t limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % limit;
}

static const char seed[] = "perun1\0job-start\0job_id\0004711\0uid\0002001\0user\0alice\0partition\0\0node\0n1\0gpus\0000,1";

/* A copy of the seed in which a few bytes were changed, cut, doubled or added. */
static size_t damage(char *packet, size_t space)
{
	size_t size = sizeof(seed);

	memcpy(packet, seed, size);
	for (uint32_t n = random_below(6); n > 0 && size > 0; n--) {
		size_t at = random_below((uint32_t)size), length = random_below(24);

		switch (random_below(5)) {
		case 0:
			packet[at] = (char)random_below(256);
			break;
		case 1:
			packet[at] = '\0';
			break;
		case 2:
			size = at;
			break;
		case 3: /* double a part */
			if (length <= size - at && size + length <= space) {
				memmove(packet + at + length, packet + at, size - at);
				size += length;
			}
			break;
		default: /* take a part out */
			if (length <= size - at) {
				memmove(packet + at, packet + at + length, size - at - length);
				size -= length;
			}
		}
	}
	return size;
}

int main(int argc, char **argv)
{
	static struct wire_message message;
	static char packet[512];
	long inputs = argc > 1 ? atol(argv[1]) : 1000, valid = 0;

	for (long i = 0; i < inputs; i++) {
		size_t size = damage(packet, sizeof(packet));
		char *exact = malloc(size ? size : 1);

		if (exact == NULL)
			return 1;
		memcpy(exact, packet, size);
		if (wire_valid(exact, size)) {
			memcpy(message.data, exact, size);
			message.size = size;
			valid += strlen(wire_verb(&message)) > 0;
			if (wire_get(&message, "gpus") != NULL && wire_get(&message, "no such key") != NULL)
				return 1;
		}
		free(exact);
	}
	printf("%ld packets, %ld of them valid\n", inputs, valid);
	return valid == 0 || valid == inputs;
}
