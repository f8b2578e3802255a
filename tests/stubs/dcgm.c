/* A library with the ABI of NVIDIA's libdcgm as far as the backend calls it: a client of a host engine that collects.
 *
 * STUB_DCGM names a file with lines "instance GPU-UUID GI CI ENTITY", "value ENTITY FIELD SHARE [AGE_S]" (of a field that
 * the engine collects), "status ENTITY FIELD CODE", "gone" (the engine ended; read at each call), "refused" (none
 * listens). STUB_LOG gets a line "FUNCTION ENTITY FIELD THOUSANDTHS" for each value served, and one for each call else.
 *
 * Source: dcgm_agent.h and dcgm_structs.h of DCGM 4.6.0; the structures are the same since 2.1.4.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GPU, VGPU, SWITCH, GPU_I = 4, GPU_CI };
enum { OK = 0, BADPARAM = -1, VER_MISMATCH = -12, NOT_WATCHED = -16, CONNECTION_NOT_VALID = -21 };
enum { MOST = 32 * 14 };

typedef struct { int group; unsigned id; } entity_t;
typedef struct {
    entity_t entity, parent;
    char gpu[128];
    unsigned index, instance, compute, profile, slices;
} place_t;
typedef struct { unsigned version, count; place_t places[MOST]; } hierarchy_t;
typedef struct { unsigned version, lasting, timeout_ms, unix_socket; } connection_t;
typedef struct {
    unsigned version;
    int group;
    unsigned id;
    unsigned short field, type;
    int status;
    unsigned unused;
    int64_t stamp_us;
    union { int64_t integer; double real; char blob[4096]; } content;
} value_t;

static void said(const char *what, unsigned entity, unsigned field, long thousandths)
{
    const char *path = getenv("STUB_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (log) {
        fprintf(log, "%s %u %u %ld\n", what, entity, field, thousandths);
        fclose(log);
    }
}

/* Whether the configuration has a line of that word; its rest, of the one whose numbers fit. */
static int line_of(const char *word, unsigned entity, unsigned field, char *rest, size_t size)
{
    FILE *config = fopen(getenv("STUB_DCGM"), "r");
    char line[512];
    int found = 0;
    while (config && !found && fgets(line, sizeof(line), config)) {
        char name[32];
        unsigned of, which;
        int at = 0, words = sscanf(line, "%31s %u %u%n", name, &of, &which, &at);
        if (words < 1 || strcmp(name, word))
            continue;
        if (!rest)
            found = 1;
        else if (words == 3 && of == entity && which == field) {
            snprintf(rest, size, "%s", line + at);
            found = 1;
        }
    }
    if (config)
        fclose(config);
    return found;
}

int dcgmInit(void) { return OK; }
int dcgmShutdown(void) { said("dcgmShutdown", 0, 0, 0); return OK; }
int dcgmDisconnect(uintptr_t handle) { said("dcgmDisconnect", (unsigned)handle, 0, 0); return OK; }

const char *errorString(int code)
{
    return code == CONNECTION_NOT_VALID ? "The connection is not valid" : "An error of the stub";
}

int dcgmConnect_v2(const char *address, connection_t *options, uintptr_t *handle)
{
    if (options->version != (sizeof(*options) | 2u << 24))
        return VER_MISMATCH;
    if (options->lasting || options->unix_socket != (address[0] == '/'))
        return BADPARAM;
    if (line_of("refused", 0, 0, NULL, 0))
        return CONNECTION_NOT_VALID;
    said(address, 0, 0, 0);
    *handle = 7;
    return OK;
}

int dcgmGetGpuInstanceHierarchy(uintptr_t handle, hierarchy_t *found)
{
    FILE *config = fopen(getenv("STUB_DCGM"), "r");
    char line[512], gpu[128];
    unsigned instance, compute, entity, before = ~0u;
    if (handle != 7 || found->version != (sizeof(*found) | 2u << 24))
        return VER_MISMATCH;
    found->count = 0;
    while (config && fgets(line, sizeof(line), config)) {
        if (sscanf(line, "instance %127s %u %u %u", gpu, &instance, &compute, &entity) != 4)
            continue;
        place_t here = { .index = 0, .instance = instance, .compute = ~0u };
        snprintf(here.gpu, sizeof(here.gpu), "%s", gpu);
        if (entity != before) {
            here.entity = (entity_t){ GPU_I, entity };
            here.parent = (entity_t){ GPU, 0 };
            found->places[found->count++] = here;
            before = entity;
        }
        here.entity = (entity_t){ GPU_CI, 100 + entity };
        here.parent = (entity_t){ GPU_I, entity };
        here.compute = compute;
        found->places[found->count++] = here;
    }
    if (config)
        fclose(config);
    return OK;
}

int dcgmEntitiesGetLatestValues(uintptr_t handle, entity_t *entities, unsigned count, unsigned short *fields,
                                unsigned num_fields, unsigned flags, value_t *values)
{
    struct timespec now;
    if (handle != 7 || flags) /* live values would mean calls of the driver */
        return BADPARAM;
    if (line_of("gone", 0, 0, NULL, 0))
        return CONNECTION_NOT_VALID;
    clock_gettime(CLOCK_REALTIME, &now);
    for (unsigned one = 0; one < count * num_fields; one++) {
        value_t *value = &values[count * num_fields - 1 - one]; /* in no order */
        unsigned entity = entities[one / num_fields].id, field = fields[one % num_fields];
        char rest[512];
        double share = 140737488355328.0, age_s = 0; /* DCGM_FP64_BLANK */
        if (value->version != (sizeof(*value) | 2u << 24))
            return VER_MISMATCH;
        value->group = entities[one / num_fields].group;
        value->id = entity;
        value->field = (unsigned short)field;
        value->type = 'd';
        value->status = NOT_WATCHED;
        if (line_of("status", entity, field, rest, sizeof(rest)))
            value->status = atoi(rest);
        else if (line_of("value", entity, field, rest, sizeof(rest))) {
            if (strstr(rest, "blank") == NULL)
                sscanf(rest, "%lf %lf", &share, &age_s);
            value->status = OK;
            said("value", entity, field, (long)(share * 1000 + 0.5));
        }
        value->stamp_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000 - (int64_t)(age_s * 1e6);
        value->content.real = share;
    }
    return OK;
}
