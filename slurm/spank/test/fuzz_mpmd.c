/* Feed random --multi-prog texts to the rewriter, the same ones at every run: fuzz_mpmd NUMBER. What it accepts must
 * give the text back when the launcher is taken out again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../plugin.h"

#define LAUNCHER "/L"

static uint64_t state = 88172645463325252U;

static uint32_t random_below(uint32_t limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % limit;
}

static void remove_all(char *text, const char *part)
{
	for (char *at = text; (at = strstr(at, part)) != NULL;)
		memmove(at, at + strlen(part), strlen(at + strlen(part)) + 1);
}

int main(int argc, char **argv)
{
	static const char *const pieces[] = { "0", "1-3", "*", "4,5", " ", "\t", "\n", "\\\n", "#", "'", "\"", "\\", "a", "%t", "cmd " };
	long inputs = argc > 1 ? atol(argv[1]) : 1000, wrapped_ones = 0;

	for (long i = 0; i < inputs; i++) {
		char text[256] = "", *exact, *wrapped;

		for (uint32_t n = random_below(40); n > 0; n--)
			strcat(text, pieces[random_below(sizeof(pieces) / sizeof(pieces[0]))]);
		exact = strdup(text);
		wrapped = mpmd_is(exact) ? mpmd_wrap(exact, LAUNCHER) : NULL;
		if (wrapped != NULL) {
			wrapped_ones++;
			if (strstr(wrapped, LAUNCHER " ") == NULL)
				return 1;
			remove_all(wrapped, LAUNCHER " ");
			if (strcmp(wrapped, text) != 0)
				return 1;
		}
		free(exact);
		free(wrapped);
	}
	printf("%ld texts, %ld of them rewritten\n", inputs, wrapped_ones);
	return wrapped_ones == 0;
}
