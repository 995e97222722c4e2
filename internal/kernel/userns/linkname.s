// This file is empty: its presence lets the package declare functions without a body, whose bodies are linked in from package syscall.
