package cli

import (
	"cmp"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"brig/api"
)

// vm has what is about level vm alone.
func (a *app) vm() *cobra.Command {
	return a.group("vm", "Manage what virtual machines are made with", "  brig vm kernel ls\n  brig vm kernel install .cache/vmlinux", []member{
		{name: "kernel", construct: (*app).vmKernel},
	})
}

func (a *app) vmKernel() *cobra.Command {
	c := &cobra.Command{
		Use:     "kernel COMMAND",
		Short:   "Manage the kernel of virtual machines",
		Example: "  brig vm kernel ls\n  brig vm kernel install .cache/vmlinux\n  brig vm kernel rm",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.vmKernelInstall(), a.vmKernelList(), a.vmKernelRemove())
	return c
}

func (a *app) vmKernelList() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List the kernels that virtual machines could have, and which they have",
		Long: "List the kernels that virtual machines could have, and which they have: the first of that which BRIG_VM_KERNEL names, the one in the store, and the one that came with\n" +
			"Brig. Those of the host would have to be installed; the last column says what keeps them from it.",
		Example:           "  brig vm kernel ls\n  brig vm kernel ls --format json",
		Aliases:           []string{"list"},
		Args:              exactArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "json" {
				return invalid(cmd, fmt.Errorf("invalid format %q: use json", format))
			}
			list, err := a.engine().VMKernels(cmd.Context())
			if err != nil {
				return err
			}
			if format == "json" {
				return printLines(a.streams.Stdout, list)
			}
			w := tabwriter.NewWriter(a.streams.Stdout, 10, 1, 3, ' ', 0)
			fmt.Fprintln(w, "VERSION\tSOURCE\tPATH\tSTATUS")
			for i := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", cmp.Or(list[i].Version, "<unknown>"), list[i].Source, list[i].Path, kernelStatus(&list[i]))
			}
			return w.Flush()
		},
	}
	c.Flags().StringVar(&format, "format", "", "Format output: 'json'")
	return c
}

// kernelStatus is what a line says of a kernel.
func kernelStatus(k *api.VMKernel) string {
	switch {
	case k.Used && k.Trouble != "":
		return "in use, and no good: " + k.Trouble
	case k.Used:
		return "in use"
	case k.Trouble != "":
		return k.Trouble
	}
	return "usable"
}

func (a *app) vmKernelInstall() *cobra.Command {
	var from api.VMKernelSource
	c := &cobra.Command{
		Use:   "install [OPTIONS] [FILE]",
		Short: "Take a kernel for virtual machines into the store",
		Long: "Take a kernel for virtual machines into the store, in place of the one that is there: an ELF file (vmlinux), or a bzImage (vmlinuz), which is unpacked; or the one of a package\n" +
			"of the distribution's, which is fetched and not installed. It must start without firmware (CONFIG_PVH). What it was built with it says itself (CONFIG_IKCONFIG), or a file\n" +
			"config-VERSION beside vmlinuz-VERSION, or --config. Devices that it has as modules are taken from /lib/modules/VERSION. Containers have it from their next start on.",
		Example: "  brig vm kernel install .cache/vmlinux\n  brig vm kernel install --config linux/.config linux/vmlinux\n  brig vm kernel install /boot/vmlinuz-$(uname -r)\n" +
			"  brig vm kernel install --package linux-image-cloud-amd64",
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("package") {
				return exactArgs(0)(cmd, args)
			}
			return exactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("package") {
				from.File = args[0]
			} else if from.Package == "" {
				return invalid(cmd, errors.New("--package: it names none"))
			} else if from.Config != "" || from.Modules != "" {
				return invalid(cmd, errors.New("--package has a configuration and modules of its own: --config and --modules go with a file"))
			}
			k, err := a.engine().InstallVMKernel(cmd.Context(), from, func(text string) {
				if from.Package != "" {
					fmt.Fprintln(a.streams.Stderr, text)
				}
			})
			if err != nil {
				return err
			}
			a.printf("%s\n", k.Version)
			if !k.Used {
				fmt.Fprintln(a.streams.Stderr, "WARNING: BRIG_VM_KERNEL names another, which goes before that of the store")
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&from.Config, "config", "", "`FILE` that says what the kernel was built with")
	f.StringVar(&from.Modules, "modules", "", "`FOLDER` with a folder of modules for each version (default /lib/modules)")
	f.StringVar(&from.Package, "package", "", "`NAME` of a package of the distribution's (apt) with a kernel")
	return c
}

func (a *app) vmKernelRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "rm",
		Short:             "Take the kernel for virtual machines out of the store",
		Example:           "  brig vm kernel rm",
		Aliases:           []string{"remove"},
		Args:              exactArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.engine().RemoveVMKernel(cmd.Context()) },
	}
}
