/* A stand-in for libnvidia-ml.so.1 with its ABI, for the functions that perun uses.
 *
 * STUB_NVML names a file of lines: "gpu UUID MINOR POWER_MW MODULE_MW SLICES" per GPU (MODULE_MW 0: no superchip;
 * SLICES 0: not in MIG mode), "instance INDEX UUID SLICES", and faults "lost|frozen|stale|backward INDEX AFTER" that
 * begin with the AFTERth field call of that GPU, "nofields INDEX", "nolimit INDEX" (0 W), "lacks INDEX FIELD" (no such field), "nocounter INDEX"
 * (no call for energy), "nousage INDEX" (none for power), "slow FUNCTION MICROSECONDS", "busy INDEX PERCENT", "pace INDEX MHZ LIMIT_MW REASONS" (a 0 of the first
 * two, and 9999 of the last: no such call), "active INDEX INSTANCE PERCENT" (GPM tells activity); "hang PATH": field calls hang once PATH exists, "drained INDEX
 * PATH": the GPU is drained while PATH exists, "recovery INDEX ACTION": what its driver asks for.
 * Energy is power times the time since nvmlInit. STUB_LOG names a file that gets a line for every value served:
 * "FUNCTION INDEX FIELD VALUE TIMESTAMP_US".
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };
enum { MAX_GPUS = 32, MAX_INSTANCES = 8 };
enum { FIELD_RECOVERY = 230, FIELD_ENERGY = 83, FIELD_AVERAGE = 185, FIELD_INSTANT = 186, TYPE_UINT = 1, TYPE_ULONGLONG = 3 };

typedef struct {
    char uuid[96];
    unsigned slices, active;
} instance_t;

typedef struct {
    char uuid[96];
    unsigned minor, power_mw, module_mw, slices, instances, field_calls, busy, mhz, limit_mw, reasons;
    int lost, frozen, stale, backward, nofields, gpm, nocounter, nousage, nolimit;
    unsigned lacks[3];
    unsigned long long frozen_mj;
    long long stale_us;
    unsigned recovery;
    char drained[192];
    instance_t instance[MAX_INSTANCES];
} gpu_t;

typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency_us;
    int type, result;
    union {
        double d;
        unsigned ui;
        unsigned long ul;
        unsigned long long ull;
    } value;
} field_value_t;

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_t;

static gpu_t gpus[MAX_GPUS];
static unsigned count;
static int started;
static struct timespec since;
static char slow_function[64];
static unsigned slow_us;
static char hang_path[256];

static void logged(const char *format, ...) {
    const char *path = getenv("STUB_LOG");
    FILE *file = path != NULL ? fopen(path, "a") : NULL;
    if (file == NULL)
        return;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    fclose(file);
}

static void delay(const char *function) {
    if (strcmp(function, slow_function) == 0)
        usleep(slow_us);
}

static long long real_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static double running_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - since.tv_sec) + (double)(now.tv_nsec - since.tv_nsec) / 1e9;
}

static int failing(const gpu_t *gpu) { return gpu->lost >= 0 && gpu->field_calls > (unsigned)gpu->lost; }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    const char *path = getenv("STUB_NVML");
    FILE *file = path != NULL ? fopen(path, "r") : NULL;
    char line[256], uuid[96], word[64], path_word[192];
    unsigned index, number, place;
    if (file == NULL)
        return UNINITIALIZED;
    count = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        gpu_t *gpu = &gpus[count < MAX_GPUS ? count : 0];
        unsigned minor, power, module, slices;
        if (sscanf(line, "gpu %95s %u %u %u %u", uuid, &minor, &power, &module, &slices) == 5) {
            memset(gpu, 0, sizeof *gpu);
            snprintf(gpu->uuid, sizeof gpu->uuid, "%s", uuid);
            gpu->minor = minor;
            gpu->power_mw = power;
            gpu->module_mw = module;
            gpu->slices = slices;
            gpu->busy = 40;
            gpu->mhz = 1410;
            gpu->limit_mw = 400000;
            gpu->reasons = 4;
            gpu->lost = gpu->frozen = gpu->stale = gpu->backward = -1;
            count++;
        } else if (sscanf(line, "instance %u %95s %u", &index, uuid, &number) == 3) {
            instance_t *one = &gpus[index].instance[gpus[index].instances++];
            snprintf(one->uuid, sizeof one->uuid, "%s", uuid);
            one->slices = number;
        } else if (sscanf(line, "nolimit %u", &index) == 1) {
            gpus[index].nolimit = 1;
        } else if (sscanf(line, "nofields %u", &index) == 1) {
            gpus[index].nofields = 1;
        } else if (sscanf(line, "nocounter %u", &index) == 1) {
            gpus[index].nocounter = 1;
        } else if (sscanf(line, "nousage %u", &index) == 1) {
            gpus[index].nousage = 1;
        } else if (sscanf(line, "lacks %u %u", &index, &number) == 2) {
            gpus[index].lacks[number == FIELD_ENERGY ? 0 : number == FIELD_AVERAGE ? 1 : 2] = number;
        } else if (sscanf(line, "hang %255s", hang_path) == 1) {
            continue;
        } else if (sscanf(line, "drained %u %191s", &index, path_word) == 2) {
            snprintf(gpus[index].drained, sizeof gpus[index].drained, "%s", path_word);
        } else if (sscanf(line, "recovery %u %u", &index, &number) == 2) {
            gpus[index].recovery = number;
        } else if (sscanf(line, "active %u %u %u", &index, &place, &number) == 3) {
            gpus[index].instance[place].active = number;
            gpus[index].gpm = 1;
        } else if (sscanf(line, "busy %u %u", &index, &number) == 2) {
            gpus[index].busy = number;
        } else if (sscanf(line, "pace %u %u %u %u", &index, &number, &power, &slices) == 4) {
            gpus[index].mhz = number;
            gpus[index].limit_mw = power;
            gpus[index].reasons = slices;
        } else if (sscanf(line, "slow %63s %u", word, &number) == 2) {
            snprintf(slow_function, sizeof slow_function, "%s", word);
            slow_us = number;
        } else if (sscanf(line, "%63s %u %u", word, &index, &number) == 3) {
            int *fault = strcmp(word, "lost") == 0     ? &gpus[index].lost
                         : strcmp(word, "frozen") == 0 ? &gpus[index].frozen
                         : strcmp(word, "stale") == 0  ? &gpus[index].stale
                                                       : &gpus[index].backward;
            *fault = (int)number;
        }
    }
    fclose(file);
    clock_gettime(CLOCK_MONOTONIC, &since);
    started = 1;
    return SUCCESS;
}

int nvmlShutdown(void) {
    logged("nvmlShutdown 0 0 0 0\n");
    started = 0;
    return SUCCESS;
}

const char *nvmlErrorString(int result) {
    return result == GPU_IS_LOST ? "GPU is lost" : result == NOT_SUPPORTED ? "Not Supported" : "Unknown Error";
}

int nvmlDeviceGetCount_v2(unsigned *number) {
    *number = count;
    return started ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (index >= count)
        return INVALID;
    *handle = &gpus[index];
    return SUCCESS;
}

static int is_instance(const void *handle, const instance_t **found) {
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 0; j < gpus[i].instances; j++)
            if (handle == &gpus[i].instance[j]) {
                *found = &gpus[i].instance[j];
                return 1;
            }
    return 0;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    const instance_t *one;
    snprintf(uuid, length, "%s", is_instance(handle, &one) ? one->uuid : ((gpu_t *)handle)->uuid);
    return SUCCESS;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    snprintf(name, length, "%s", ((gpu_t *)handle)->module_mw ? "Stub Superchip" : "Stub GPU");
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(void *handle, pci_t *pci) {
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned)((gpu_t *)handle - gpus) + 0x10;
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", pci->bus);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    return SUCCESS;
}

int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) {
    *minor = ((gpu_t *)handle)->minor;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    *current = *pending = ((gpu_t *)handle)->slices != 0;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *number) {
    *number = ((gpu_t *)handle)->slices;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **instance) {
    gpu_t *gpu = handle;
    if (index >= gpu->instances)
        return INVALID;
    *instance = &gpu->instance[index];
    return SUCCESS;
}

int nvmlDeviceGetAttributes_v2(void *handle, unsigned *attributes) {
    const instance_t *one;
    memset(attributes, 0, 10 * sizeof *attributes);
    if (!is_instance(handle, &one))
        return INVALID;
    attributes[6] = one->slices;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimitConstraints(void *handle, unsigned *lowest, unsigned *highest) {
    int none = ((gpu_t *)handle)->nolimit;
    *lowest = none ? 0 : 100000;
    *highest = none ? 0 : 700000;
    return SUCCESS;
}

int nvmlDeviceGetFieldValues(void *handle, int number, field_value_t *values) {
    gpu_t *gpu = handle;
    int index = (int)(gpu - gpus);
    delay("nvmlDeviceGetFieldValues");
    while (hang_path[0] != '\0' && access(hang_path, F_OK) == 0)
        pause();
    if (gpu->nofields)
        return NOT_SUPPORTED;
    gpu->field_calls++;
    if (failing(gpu))
        return GPU_IS_LOST;
    unsigned draw_mw = gpu->module_mw ? gpu->module_mw : gpu->power_mw;
    unsigned long long energy_mj = 1000000 + (unsigned long long)(draw_mw * running_s());
    long long now_us = real_us();
    if (gpu->frozen >= 0 && gpu->field_calls > (unsigned)gpu->frozen)
        energy_mj = gpu->frozen_mj;
    if (gpu->backward >= 0 && gpu->field_calls > (unsigned)gpu->backward)
        energy_mj -= 500000;
    if (gpu->stale >= 0 && gpu->field_calls > (unsigned)gpu->stale)
        now_us = gpu->stale_us - 61LL * 1000000;
    gpu->frozen_mj = energy_mj;
    if (gpu->stale < 0 || gpu->field_calls <= (unsigned)gpu->stale)
        gpu->stale_us = now_us;
    for (int i = 0; i < number; i++) {
        field_value_t *value = &values[i];
        value->timestamp = now_us;
        value->latency_us = 10;
        value->result = SUCCESS;
        unsigned lacked = 0;
        for (int j = 0; j < 3; j++)
            lacked |= value->field == gpu->lacks[j];
        if (lacked || value->scope > 1 || (value->scope == 1 && !gpu->module_mw)) {
            value->result = NOT_SUPPORTED;
        } else if (value->field == FIELD_ENERGY) {
            value->type = TYPE_ULONGLONG;
            value->value.ull = energy_mj;
            logged("energy %d %u %llu %lld\n", index, value->field, energy_mj, now_us);
        } else if (value->field == FIELD_AVERAGE || value->field == FIELD_INSTANT) {
            value->type = TYPE_UINT;
            value->value.ui = value->scope == 1 ? gpu->module_mw : gpu->power_mw;
            logged("power %d %u %u %lld\n", index, value->field, value->value.ui, now_us);
        } else if (value->field == FIELD_RECOVERY && gpu->recovery) {
            value->type = TYPE_UINT;
            value->value.ui = gpu->recovery;
        } else {
            value->result = NOT_SUPPORTED;
        }
    }
    return SUCCESS;
}

int nvmlDeviceQueryDrainState(pci_t *pci, unsigned *state) {
    unsigned index = pci->bus - 0x10;
    if (index >= count)
        return INVALID;
    if (gpus[index].drained[0] == '\0')
        return NOT_SUPPORTED;
    *state = access(gpus[index].drained, F_OK) == 0;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *energy_mj) {
    gpu_t *gpu = handle;
    if (gpu->nocounter)
        return NOT_SUPPORTED;
    *energy_mj = 1000000 + (unsigned long long)(gpu->power_mw * running_s());
    logged("energy %d %d %llu %lld\n", (int)(gpu - gpus), FIELD_ENERGY, *energy_mj, real_us());
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *power_mw) {
    gpu_t *gpu = handle;
    delay("nvmlDeviceGetPowerUsage");
    if (gpu->nousage)
        return NOT_SUPPORTED;
    *power_mw = gpu->power_mw;
    logged("usage %d 0 %u %lld\n", (int)(gpu - gpus), *power_mw, real_us());
    return failing(gpu) ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *memory) {
    gpu_t *gpu = handle;
    delay("nvmlDeviceGetMemoryInfo");
    if (failing(gpu))
        return GPU_IS_LOST;
    memory[0] = 80ULL << 30;
    memory[2] = 1ULL << 30;
    memory[1] = memory[0] - memory[2];
    logged("memory %d 0 %llu 0\n", (int)(gpu - gpus), memory[2]);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned *rates) {
    gpu_t *gpu = handle;
    if (failing(gpu))
        return GPU_IS_LOST;
    if (gpu->slices)
        return NOT_SUPPORTED;
    rates[0] = gpu->busy;
    rates[1] = 20;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *handle, int kind, unsigned *mhz) {
    *mhz = kind == 1 ? ((gpu_t *)handle)->mhz : 1593;
    return failing(handle) ? GPU_IS_LOST : *mhz == 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *limit_mw) {
    *limit_mw = ((gpu_t *)handle)->limit_mw;
    return failing(handle) ? GPU_IS_LOST : *limit_mw == 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetTemperature(void *handle, int kind, unsigned *celsius) {
    (void)kind;
    *celsius = 45;
    return failing(handle) ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *reasons) {
    *reasons = ((gpu_t *)handle)->reasons;
    return failing(handle) ? GPU_IS_LOST : *reasons == 9999 ? NOT_SUPPORTED : SUCCESS;
}

/* GPM: a sample is the moment and the instance; two of them tell the busy SMs in between. */

typedef struct {
    const instance_t *of;
    double at_s;
} sample_t;

typedef struct {
    unsigned id;
    int result;
    double value;
    char *names[3];
} metric_t;

typedef struct {
    unsigned version, number;
    sample_t *first, *second;
    metric_t metrics[];
} metrics_t;

int nvmlGpmQueryDeviceSupport(void *handle, unsigned *support) {
    support[1] = (unsigned)((gpu_t *)handle)->gpm;
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *number) {
    const instance_t *one;
    if (!is_instance(handle, &one))
        return INVALID;
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 0; j < gpus[i].instances; j++)
            if (one == &gpus[i].instance[j])
                *number = j + 7;
    return SUCCESS;
}

int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *number) {
    const instance_t *one;
    *number = 0;
    return is_instance(handle, &one) ? SUCCESS : INVALID;
}

int nvmlGpmSampleAlloc(sample_t **sample) {
    *sample = calloc(1, sizeof **sample);
    logged("sample 0 0 1 0\n");
    return *sample != NULL ? SUCCESS : INVALID;
}

int nvmlGpmSampleFree(sample_t *sample) {
    free(sample);
    logged("sample 0 0 -1 0\n");
    return SUCCESS;
}

int nvmlGpmMigSampleGet(void *handle, unsigned number, sample_t *sample) {
    gpu_t *gpu = handle;
    if (number < 7 || number - 7 >= gpu->instances)
        return INVALID;
    if (failing(gpu))
        return GPU_IS_LOST;
    sample->of = &gpu->instance[number - 7];
    sample->at_s = running_s();
    return SUCCESS;
}

int nvmlGpmMetricsGet(metrics_t *wanted) {
    if (wanted->version != 1 || wanted->first->of != wanted->second->of || wanted->first->at_s >= wanted->second->at_s)
        return INVALID;
    for (unsigned i = 0; i < wanted->number; i++) {
        wanted->metrics[i].result = wanted->metrics[i].id == 2 ? SUCCESS : NOT_SUPPORTED;
        wanted->metrics[i].value = wanted->second->of->active;
    }
    return SUCCESS;
}
