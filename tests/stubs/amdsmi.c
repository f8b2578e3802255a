/* A stand-in for libamd_smi.so with its ABI, for the functions that perun uses (the test adds empty ones for the rest).
 *
 * STUB_AMDSMI names a file of lines "gpu UUID BUS FUNCTION POWER_W COUNTED_W [MHZ CAP_W]": COUNTED_W is what the energy accumulator
 * counts; 0 freezes it, a negative one lets it run backwards. STUB_LOG gets a line "FUNCTION INDEX VALUE" per value.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 2, MAX_GPUS = 64 };

typedef struct {
    char uuid[40];
    unsigned bus, function, power_w, mhz, cap_w;
    int counted_w;
} gpu_t;

typedef struct {
    uint64_t socket_power;
    uint32_t current, average;
    uint64_t gfx_mv, soc_mv, mem_mv;
    uint32_t limit, padding;
    uint64_t reserved[18];
} power_t;

static gpu_t gpus[MAX_GPUS];
static uint32_t count;
static struct timespec since;
static const float STEP_UJ = 15.259f;

static void logged(const char *function, const gpu_t *gpu, unsigned long long value) {
    const char *path = getenv("STUB_LOG");
    FILE *file = path != NULL ? fopen(path, "a") : NULL;
    if (file == NULL)
        return;
    fprintf(file, "%s %d %llu\n", function, (int)(gpu - gpus), value);
    fclose(file);
}

int amdsmi_init(uint64_t flags) {
    (void)flags;
    const char *path = getenv("STUB_AMDSMI");
    FILE *file = path != NULL ? fopen(path, "r") : NULL;
    char line[256];
    if (file == NULL)
        return NOT_SUPPORTED;
    count = 0;
    while (count < MAX_GPUS && fgets(line, sizeof line, file) != NULL) {
        gpu_t *gpu = &gpus[count];
        if (sscanf(line, "gpu %39s %u %u %u %d %u %u", gpu->uuid, &gpu->bus, &gpu->function, &gpu->power_w,
                   &gpu->counted_w, &gpu->mhz, &gpu->cap_w) >= 5)
            count++;
    }
    fclose(file);
    clock_gettime(CLOCK_MONOTONIC, &since);
    return SUCCESS;
}

int amdsmi_shut_down(void) {
    logged("shut_down", gpus, 0);
    return SUCCESS;
}

int amdsmi_get_socket_handles(uint32_t *number, void **handles) {
    *number = 1;
    if (handles != NULL)
        handles[0] = gpus;
    return SUCCESS;
}

int amdsmi_get_processor_handles(void *socket, uint32_t *number, void **handles) {
    (void)socket;
    *number = count;
    if (handles != NULL)
        for (uint32_t i = 0; i < count; i++)
            handles[i] = &gpus[i];
    return SUCCESS;
}

int amdsmi_get_gpu_device_bdf(void *handle, uint64_t *bdf) {
    const gpu_t *gpu = handle;
    *bdf = gpu->function | (uint64_t)gpu->bus << 8;
    return SUCCESS;
}

int amdsmi_get_gpu_device_uuid(void *handle, uint32_t *length, char *uuid) {
    snprintf(uuid, *length, "%s", ((gpu_t *)handle)->uuid);
    return SUCCESS;
}

int amdsmi_get_energy_count(void *handle, uint64_t *steps, float *step_uj, uint64_t *timestamp) {
    const gpu_t *gpu = handle;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)(now.tv_sec - since.tv_sec) + (double)(now.tv_nsec - since.tv_nsec) / 1e9;
    *steps = (uint64_t)(1e9 + gpu->counted_w * seconds * 1e6 / STEP_UJ);
    *step_uj = STEP_UJ;
    *timestamp = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    logged("energy", gpu, *steps);
    return SUCCESS;
}

int amdsmi_get_power_info(void *handle, power_t *power) {
    memset(power, 0, sizeof *power);
    power->socket_power = 0xFFFF;
    power->current = ((gpu_t *)handle)->power_w;
    power->average = 0xFFFF;
    logged("power", handle, power->current);
    return SUCCESS;
}

int amdsmi_get_clock_info(void *handle, int kind, uint32_t *clock) {
    clock[0] = ((gpu_t *)handle)->mhz;
    return kind == 0 && clock[0] != 0 ? SUCCESS : NOT_SUPPORTED;
}

int amdsmi_get_power_cap_info(void *handle, uint32_t sensor, uint64_t *cap) {
    cap[0] = 1000000ULL * ((gpu_t *)handle)->cap_w;
    return sensor == 0 && cap[0] != 0 ? SUCCESS : NOT_SUPPORTED;
}

int amdsmi_get_gpu_vram_usage(void *handle, uint32_t *usage) {
    usage[0] = 65536;
    usage[1] = 512;
    logged("memory", handle, usage[1]);
    return SUCCESS;
}

int amdsmi_get_gpu_activity(void *handle, uint32_t *usage) {
    (void)handle;
    (void)usage;
    return NOT_SUPPORTED;
}
