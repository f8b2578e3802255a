/* Teaches OpenIPMI's ipmi_sim the power reading of DCMI, as a module that its `loadlib` loads.
 *
 * The module's options are a file, which gets a line "SECONDS WATTS" for every reading served, and the state that
 * readings tell: "active", or "inactive", with watts all the same, as older firmware of OpenBMC has it.
 *
 * Source: DCMI v1.5, sections 6.1.1 (capabilities) and 6.6.1 (power reading); OpenIPMI's <OpenIPMI/mcserv.h> and
 * ipmi_lan(5).
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <OpenIPMI/ipmi_bits.h>
#include <OpenIPMI/mcserv.h>

enum { DCMI = 0xdc, GET_CAPABILITIES = 0x01, GET_POWER_READING = 0x02, MODE_POWER = 0x01, ACTIVE = 0x40 };

/* The machine draws 170 to 189 W, another watt every second. */
enum { BASE_W = 170, STEPS = 20 };

static unsigned char state = ACTIVE;
static FILE *served;

static unsigned char *put(unsigned char *at, unsigned long value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *at++ = (unsigned char)(value >> (8 * i));
    return at;
}

static void answer(lmc_data_t *mc, msg_t *msg, unsigned char *rdata, unsigned int *rdata_len, void *data)
{
    unsigned char *at = rdata;

    (void)data;
    if (check_msg_length(msg, 2, rdata, rdata_len))
        return;
    *at++ = 0;
    *at++ = DCMI;
    if (msg->cmd == GET_CAPABILITIES && msg->data[1] == 1) {
        /* Version 1.5, revision 2 of the parameter; power management, in band by the system interface. */
        static const unsigned char supported[] = { 1, 5, 2, 0, 1, 1 };
        memcpy(at, supported, sizeof(supported));
        at += sizeof(supported);
    } else if (msg->cmd == GET_POWER_READING && msg->data[1] == MODE_POWER) {
        unsigned long now_s = (unsigned long)time(NULL), watts = BASE_W + now_s % STEPS;
        fprintf(served, "%lu %lu\n", now_s, watts);
        fflush(served);
        at = put(at, watts, 2);
        at = put(at, BASE_W, 2);
        at = put(at, BASE_W + STEPS - 1, 2);
        at = put(at, BASE_W + STEPS / 2, 2);
        at = put(at, now_s, 4);
        at = put(at, 1000, 4); /* over which time in ms the average is */
        *at++ = state;
    } else {
        handle_invalid_cmd(mc, rdata, rdata_len);
        return;
    }
    *rdata_len = (unsigned int)(at - rdata);
}

int ipmi_sim_module_print_version(sys_data_t *sys, const char *options);
int ipmi_sim_module_init(sys_data_t *sys, const char *options);

int ipmi_sim_module_print_version(sys_data_t *sys, const char *options)
{
    (void)sys;
    (void)options;
    puts("DCMI power, for the tests of perun-hpc");
    return 0;
}

int ipmi_sim_module_init(sys_data_t *sys, const char *options)
{
    char path[256], told[16];

    (void)sys;
    if (!options || sscanf(options, "%255s %15s", path, told) != 2 || !(served = fopen(path, "a")))
        return 1;
    state = strcmp(told, "inactive") == 0 ? 0 : ACTIVE;
    ipmi_emu_register_group_extension_handler(DCMI, answer, NULL);
    return 0;
}
