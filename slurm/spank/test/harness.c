/* Loads the plugin without Slurm and shows what it does to a task:
 *
 *   harness PLUGIN CONTEXT OPTION STEP ARGUMENTS COMMAND ARG...
 *
 * PLUGIN may be several, separated by colons, as they stand in plugstack.conf; perun's takes the option and the arguments.
 * CONTEXT is local, allocator or remote; OPTION "-" (not given), "+" (--perun) or "=value" (--perun=value); ARGUMENTS
 * those of plugstack.conf, separated by commas. The environment of the harness is the job's. Writes NUL-terminated
 * strings: "A" and a word of the task's arguments, "E" and a variable, "J" and a variable of Prolog and Epilog, "L" and a
 * line that the user would see.
 * Built with -DWITH_PREPEND it is a Slurm of 23.11 or later, else one of 22.05. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <slurm/spank.h>

extern char **environ;

typedef int (*plugin_function)(spank_t, int, char **);

static enum spank_context context;
static uint32_t step;
static char **task_argv;
static int task_argc;
static struct spank_option *option;

spank_context_t spank_context(void)
{
	return context;
}

spank_err_t spank_option_register(spank_t spank, struct spank_option *registered)
{
	(void)spank;
	option = registered;
	return ESPANK_SUCCESS;
}

spank_err_t spank_get_item(spank_t spank, spank_item_t item, ...)
{
	va_list arguments;

	(void)spank;
	va_start(arguments, item);
	switch ((int)item) {
	case S_JOB_ID:
		*va_arg(arguments, uint32_t *) = 4711;
		break;
	case S_SLURM_RESTART_COUNT:
		*va_arg(arguments, uint32_t *) = 2;
		break;
	case S_JOB_STEPID:
		*va_arg(arguments, uint32_t *) = step;
		break;
	case S_JOB_ARGV:
		*va_arg(arguments, int *) = task_argc;
		*va_arg(arguments, char ***) = task_argv;
		break;
	default:
		va_end(arguments);
		return ESPANK_BAD_ARG;
	}
	va_end(arguments);
	return ESPANK_SUCCESS;
}

spank_err_t spank_getenv(spank_t spank, const char *name, char *value, int size)
{
	const char *found = getenv(name);

	(void)spank;
	if (found == NULL)
		return ESPANK_ENV_NOEXIST;
	return snprintf(value, (size_t)size, "%s", found) < size ? ESPANK_SUCCESS : ESPANK_NOSPACE;
}

spank_err_t spank_setenv(spank_t spank, const char *name, const char *value, int overwrite)
{
	(void)spank;
	return setenv(name, value, overwrite) == 0 ? ESPANK_SUCCESS : ESPANK_ERROR;
}

spank_err_t spank_unsetenv(spank_t spank, const char *name)
{
	(void)spank;
	return unsetenv(name) == 0 ? ESPANK_SUCCESS : ESPANK_ERROR;
}

spank_err_t spank_job_control_setenv(spank_t spank, const char *name, const char *value, int overwrite)
{
	(void)spank;
	printf("JSPANK_%s=%s%c", name, value, '\0');
	return context == S_CTX_REMOTE || !overwrite ? ESPANK_NOT_LOCAL : ESPANK_SUCCESS;
}

void slurm_error(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	putchar('L');
	vprintf(format, arguments);
	putchar('\0');
	va_end(arguments);
}

#ifdef WITH_PREPEND
spank_err_t spank_prepend_task_argv(spank_t spank, int argc, const char *argv[])
{
	char **joined = calloc((size_t)(argc + task_argc + 1), sizeof(char *));

	(void)spank;
	for (int i = 0; i < argc; i++)
		joined[i] = strdup(argv[i]);
	memcpy(joined + argc, task_argv, (size_t)task_argc * sizeof(char *));
	task_argv = joined;
	task_argc += argc;
	return ESPANK_SUCCESS;
}
#endif

static plugin_function find(void *plugin, const char *name)
{
	plugin_function function = NULL;

	*(void **)&function = dlsym(plugin, name);
	return function;
}

int main(int argc, char **argv)
{
	char *arguments[16];
	int count = 0;
	void *plugins[4], *plugin = NULL;
	int stack = 0;

	for (char *name = strtok(argc < 7 ? NULL : argv[1], ":"); name != NULL && stack < 4; name = strtok(NULL, ":")) {
		plugins[stack] = dlopen(name, RTLD_NOW);
		if (plugins[stack] != NULL && find(plugins[stack], "slurm_spank_init") != NULL)
			plugin = plugins[stack];
		stack += plugins[stack] != NULL;
	}
	if (plugin == NULL) {
		fprintf(stderr, "harness: %s\n", argc < 7 ? "too few arguments" : dlerror());
		return 2;
	}
	context = strcmp(argv[2], "local") == 0 ? S_CTX_LOCAL :
		  strcmp(argv[2], "allocator") == 0 ? S_CTX_ALLOCATOR : S_CTX_REMOTE;
	step = (uint32_t)strtoul(argv[4], NULL, 0);
	for (char *word = strtok(argv[5], ","); word != NULL && count < 16; word = strtok(NULL, ","))
		arguments[count++] = word;
	task_argv = argv + 6;
	task_argc = argc - 6;
	if (find(plugin, "slurm_spank_init")(NULL, count, arguments) != 0)
		return 3;
	if (option != NULL && argv[3][0] != '-' &&
	    option->cb(option->val, argv[3][0] == '=' ? argv[3] + 1 : NULL, context == S_CTX_REMOTE) != 0)
		return 4;
	if (find(plugin, "slurm_spank_init_post_opt")(NULL, count, arguments) != 0)
		return 7;
	if (context == S_CTX_LOCAL && find(plugin, "slurm_spank_local_user_init")(NULL, count, arguments) != 0)
		return 5;
	for (int i = 0; context == S_CTX_REMOTE && i < stack; i++)
		if (find(plugins[i], "slurm_spank_task_init")(NULL, count, arguments) != 0)
			return 6;
	for (int i = 0; i < task_argc; i++)
		printf("A%s%c", task_argv[i], '\0');
	for (char **variable = environ; *variable != NULL; variable++)
		printf("E%s%c", *variable, '\0');
	return 0;
}
