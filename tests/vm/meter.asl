// An ACPI 4.0 power meter (section 10.4) of the whole machine: 150 W to 159 W, another watt every second.
DefinitionBlock ("", "SSDT", 2, "PERUN", "METER", 1)
{
    Scope (\_SB)
    {
        Device (PMTR)
        {
            Name (_HID, "ACPI000D")
            Name (_UID, Zero)

            // What it can do: 1 is measuring; mW; input; 98 %; a measurement a second, averaged over a second; no limits.
            Name (_PMC, Package (14)
            {
                One, Zero, Zero, 98000, 1000, 1000, 1000, 0xFFFFFFFF, Zero, Zero, Zero, "perun-vm", "1", "perun-hpc tests"
            })

            Method (_PMM, 0, NotSerialized)
            {
                Return (150000 + ((Timer / 10000000) % 10) * 1000)
            }

            Method (_PMD, 0, NotSerialized)
            {
                Return (Package () { \_SB })
            }
        }
    }
}
