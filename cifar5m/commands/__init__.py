"""The commands, a module each."""

from worlds.runtime.signals import quiet_interrupts

quiet_interrupts()
