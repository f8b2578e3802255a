/* For the tests: reads packets (32-bit length, bytes) from stdin; writes for each, in the same form, the message built
 * anew from what was read, or the length 0xffffffff if the packet is refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../wire.h"

static struct wire_message message, built;

static void rebuild(void)
{
	const char *end = message.data + message.size;
	const char *key, *value;

	wire_begin(&built, wire_verb(&message));
	for (key = wire_verb(&message) + strlen(wire_verb(&message)) + 1; key < end; key = value + strlen(value) + 1) {
		value = wire_get(&message, key);
		wire_add(&built, key, value);
	}
}

int main(void)
{
	uint32_t size;

	while (fread(&size, sizeof(size), 1, stdin) == 1) {
		char *packet = malloc(size ? size : 1); /* of just that size: reading beyond it is seen by the sanitizer */
		uint32_t answer = UINT32_MAX;

		if (packet == NULL || fread(packet, 1, size, stdin) != size)
			return 1;
		if (wire_valid(packet, size)) {
			memcpy(message.data, packet, size);
			message.size = size;
			rebuild();
			answer = built.damaged ? UINT32_MAX - 1 : (uint32_t)built.size;
		}
		fwrite(&answer, sizeof(answer), 1, stdout);
		if (answer <= WIRE_MAX)
			fwrite(built.data, 1, built.size, stdout);
		free(packet);
	}
	return 0;
}
