package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"brig/api"
)

// loginOptions are the flags of login that its request does not hold.
type loginOptions struct {
	user, password string
	stdin, verify  bool
}

func (a *app) login() *cobra.Command {
	r := api.TransferRequest{Op: "login"}
	o := loginOptions{verify: true}
	cmd := &cobra.Command{
		Use:               "login [OPTIONS] [SERVER]",
		Short:             "Authenticate to a registry",
		Long:              "Authenticate to a registry.\nDefaults to docker.io if no server is specified. What is kept is kept where docker keeps it.",
		Example:           "  brig login registry.example.com\n  pass show registry | brig login -u me --password-stdin registry.example.com",
		Args:              maxArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				r.Server = args[0]
			}
			r.Insecure = !o.verify
			return a.runLogin(cmd, r, o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.user, "username", "u", "", "Username")
	f.StringVarP(&o.password, "password", "p", "", "Password or personal access token")
	f.BoolVar(&o.stdin, "password-stdin", false, "Take the password or personal access token from standard input")
	registryFlags(f, &r)
	f.BoolVar(&o.verify, "tls-verify", true, "Require HTTPS and a valid certificate of the registry")
	return cmd
}

// runLogin follows docker's command: what was given, else what is kept, else what the user types.
func (a *app) runLogin(cmd *cobra.Command, r api.TransferRequest, o loginOptions) error {
	given := cmd.Flags().Changed("password")
	if given {
		fmt.Fprintln(a.streams.Stderr, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
		if o.stdin {
			return errors.New("conflicting options: cannot specify both --password and --password-stdin")
		}
		if o.password == "" {
			return errors.New("password is empty")
		}
	}
	if cmd.Flags().Changed("username") && o.user == "" {
		return errors.New("username is empty")
	}
	if o.stdin {
		if o.user == "" {
			return errors.New("the --password-stdin option requires --username to be set")
		}
		b, err := io.ReadAll(a.streams.Stdin)
		if err != nil {
			return err
		}
		o.password = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
		if o.password == "" {
			return errors.New("password is empty")
		}
	}
	known := ""
	if o.user == "" && o.password == "" {
		reply, err := a.loginOnce(cmd, r, "")
		if err != nil {
			return err
		}
		if known = reply.User; known != "" {
			a.printf("Authenticating with existing credentials... [Username: %s]\n", known)
			if reply.Refused == "" {
				a.printf("\nLogin Succeeded\n")
				return nil
			}
			fmt.Fprintf(a.streams.Stderr, "Login did not succeed, error: %s\n", reply.Refused)
		}
	}
	if o.user == "" || o.password == "" {
		if err := a.promptLogin(cmd.Context(), r.Server == "", known, &o); err != nil {
			return err
		}
	}
	r.User = o.user
	reply, err := a.loginOnce(cmd, r, o.password)
	if err != nil {
		return err
	}
	if reply.Helper == "" {
		fmt.Fprintf(a.streams.Stderr, "\nWARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n", reply.File)
	}
	a.printf("\nLogin Succeeded\n")
	return nil
}

// loginOnce asks the registry. The password goes through a pipe: arguments can be seen by every user of the machine.
func (a *app) loginOnce(cmd *cobra.Command, r api.TransferRequest, password string) (api.Login, error) {
	reply, err := a.engine().Transfer(cmd.Context(), r, api.Streams{Stdin: strings.NewReader(password), Stdout: a.streams.Stdout, Stderr: a.streams.Stderr})
	if err == nil && reply.Error != "" {
		err = api.Errorf(reply.Kind, "%s", reply.Error)
	}
	if err == nil && reply.Login == nil {
		err = errors.New("login: brig-image gave no answer")
	}
	if err != nil {
		return api.Login{}, err
	}
	return *reply.Login, nil
}

// promptLogin asks for what was not given, on a terminal.
func (a *app) promptLogin(ctx context.Context, hub bool, known string, o *loginOptions) error {
	tty := a.streams.Terminal
	if tty == nil {
		return errors.New("Error: Cannot perform an interactive login from a non TTY device") //nolint:staticcheck // docker's words
	}
	if o.user == "" {
		if hub {
			a.printf("Log in with your Docker ID or email address to push and pull images from Docker Hub. If you don't have a Docker ID, head over to https://hub.docker.com/ to create one.\n")
		}
		question := "Username: "
		if known != "" && known != "<token>" {
			question = "Username (" + known + "): "
		}
		line, err := a.ask(ctx, tty, question, true)
		if err != nil {
			return err
		}
		if o.user = strings.TrimSpace(line); o.user == "" && known != "<token>" {
			o.user = known
		}
		if o.user == "" {
			return errors.New("Error: Non-null Username Required") //nolint:staticcheck // docker's words
		}
	}
	if o.password == "" {
		line, err := a.ask(ctx, tty, "Password: ", false)
		if err != nil {
			return err
		}
		if o.password = line; line == "" {
			return errors.New("Error: Password Required") //nolint:staticcheck // docker's words
		}
	}
	return nil
}

// ask reads a line that the user types, with or without showing it. The terminal is as before when it returns, also after a signal.
func (a *app) ask(ctx context.Context, tty *os.File, question string, echo bool) (string, error) {
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return "", err
	}
	restore := func() { _ = term.Restore(int(tty.Fd()), before) } // fails only when the terminal is gone
	a.signals.atExit(restore)
	defer a.signals.atExit(nil)
	defer restore()
	a.printf("%s", question)
	type line struct {
		text string
		err  error
	}
	typed := make(chan line, 1)
	go func() {
		if echo {
			text, err := bufio.NewReaderSize(oneByte{tty}, 16).ReadString('\n')
			typed <- line{strings.TrimRight(text, "\r\n"), err}
			return
		}
		b, err := term.ReadPassword(int(tty.Fd()))
		typed <- line{string(b), err}
	}()
	select {
	case <-ctx.Done():
		a.printf("\n")
		return "", context.Cause(ctx)
	case l := <-typed:
		if !echo {
			a.printf("\n")
		}
		if errors.Is(l.err, io.EOF) {
			l.err = nil // Ctrl-D: what is there
		}
		return l.text, l.err
	}
}

// oneByte keeps a buffered reader from taking what comes after its line.
type oneByte struct{ f *os.File }

func (r oneByte) Read(p []byte) (int, error) { return r.f.Read(p[:1]) }
