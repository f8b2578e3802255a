#include "plugin.h"

#include <stdio.h>
#include <string.h>

enum { VALUE_MAX = 1024 };

static struct {
	bool given, off;
	char value[VALUE_MAX];
} flag;

/* A comma-separated list has the element "off". */
static bool says_off(const char *list)
{
	size_t length;

	for (; *list != '\0'; list += length + (list[length] == ',')) {
		length = strcspn(list, ",");
		if (length == 3 && strncmp(list, "off", 3) == 0)
			return true;
	}
	return false;
}

/* Called for every --perun, in the order in which they were given (an inherited one first): the last one counts. */
static int take(int unused, const char *value, int remote)
{
	(void)unused;
	(void)remote;
	if (value == NULL || strcmp(value, "(null)") == 0)
		value = "";
	flag.given = strlen(value) < VALUE_MAX;
	flag.off = says_off(value);
	if (flag.given)
		strcpy(flag.value, value);
	return 0;
}

static struct spank_option perun_option = {
	.name = "perun",
	.arginfo = "options",
	.usage = "measure this step's ranks and functions with perun (options: key=value,...; off)",
	.has_arg = 2, /* optional */
	.cb = take,
};

int option_register(spank_t spank)
{
	if (spank_option_register(spank, &perun_option) != ESPANK_SUCCESS)
		slurm_error("perun: the option --perun could not be registered: another plugin may have it");
	return 0;
}

const char *option_value(void)
{
	return flag.given && !flag.off ? flag.value : NULL;
}

void option_tell(spank_t spank)
{
	char text[1 + VALUE_MAX];

	if (!flag.given)
		return;
	snprintf(text, sizeof(text), "=%s", flag.value);
	spank_job_control_setenv(spank, "PERUN", text, 1);
}
