package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) systemCheck() *cobra.Command {
	var repair, verify bool
	var format string
	cmd := &cobra.Command{
		Use:   "check [OPTIONS]",
		Short: "Read the whole store and tell what is damaged",
		Long: "Read every blob, layer and record of the store and tell what is damaged. With --repair, damaged images are fetched again from\n" +
			"where they came, and what nothing needs is removed; what cannot be repaired is left as it is. The exit code is 1 if anything\n" +
			"stays damaged.",
		Example:           "  brig system check\n  brig system check --repair",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "json" {
				return invalid(cmd, fmt.Errorf("invalid format %q: use json", format))
			}
			r, err := a.engine().Check(cmd.Context(), repair, !verify, a.streams)
			if err != nil {
				return err
			}
			if format == "json" {
				if err := printLines(a.streams.Stdout, []api.CheckReport{r}); err != nil {
					return err
				}
			} else {
				a.printCheck(&r)
			}
			for _, p := range r.Problems {
				if p.Repaired == "" {
					return &exitError{code: codeFailed}
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&repair, "repair", false, "Fetch again what is damaged, and remove what nothing needs")
	f.BoolVar(&verify, "tls-verify", true, "Require HTTPS and a verified certificate of registries")
	f.StringVar(&format, "format", "", "Format output: 'json'")
	return cmd
}

func (a *app) printCheck(r *api.CheckReport) {
	damaged := 0
	for _, p := range r.Problems {
		a.printf("%s %s: %s\n", p.Kind, p.Name, p.Trouble)
		switch {
		case p.Repaired != "":
			a.printf("  repaired: %s\n", p.Repaired)
		case p.Advice != "":
			a.printf("  %s\n", p.Advice)
		}
		if p.Repaired == "" {
			damaged++
		}
	}
	if n := len(r.Leftovers); n > 0 {
		removed := 0
		for _, p := range r.Leftovers {
			if p.Repaired != "" {
				removed++
			}
		}
		if removed == n {
			a.printf("Left over and removed: %d\n", n)
		} else {
			a.printf("Left over by processes that were broken off: %d; `brig system prune` removes them\n", n)
		}
		for _, p := range r.Leftovers {
			a.printf("  %s: %s\n", p.Name, p.Trouble)
		}
	}
	a.printf("Checked %d images, %d containers, %d blobs (%s), %d layers: %s\n",
		r.Images, r.Containers, r.Blobs, humanSize(r.Bytes), r.Layers, verdict(len(r.Problems), damaged))
}

func verdict(found, damaged int) string {
	switch {
	case found == 0:
		return "all is well"
	case damaged == 0:
		return fmt.Sprintf("%d repaired", found)
	case damaged == found:
		return fmt.Sprintf("%d damaged", found)
	}
	return fmt.Sprintf("%d repaired, %d damaged", found-damaged, damaged)
}

func (a *app) systemLimit() *cobra.Command {
	return &cobra.Command{
		Use:   "limit [SIZE|none]",
		Short: "Show or set what the store may take on the disk",
		Long: "Show or set what all of the store may take on the disk. The limit is kept in the store, and every process keeps to it from its next\n" +
			"pull or load on: before more is written than is left, it removes images that no container uses, the least recently used first; if\n" +
			"that is not enough it fails and says what holds the space. What containers write counts, but is not limited.",
		Example: "  brig system limit 20g\n  brig system limit\n  brig system limit none",
		Args:    maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				n, err := a.engine().StoreLimit(cmd.Context())
				if err != nil {
					return err
				}
				if n == 0 {
					a.printf("none\n")
				} else {
					a.printf("%d\n", n)
				}
				return nil
			}
			if strings.EqualFold(args[0], "none") {
				return a.engine().SetStoreLimit(cmd.Context(), 0)
			}
			n, err := parseStoreLimit(args[0])
			if err != nil {
				return err
			}
			return a.engine().SetStoreLimit(cmd.Context(), n)
		},
	}
}

// parseStoreLimit reads a size that a store can do with.
func parseStoreLimit(s string) (int64, error) {
	n, err := parseBytes(s)
	if err == nil && n < minStoreLimit {
		err = fmt.Errorf("a limit of %d bytes is too small: want %d or more", n, minStoreLimit)
	}
	return n, err
}

// minStoreLimit is what the records of a few images take, in bytes.
const minStoreLimit = 1 << 20
