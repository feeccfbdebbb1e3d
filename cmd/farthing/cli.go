package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/farthing402/farthing/evm"
)

// cli is the command line. Flags that mean the same everywhere stand here, so they mean the same everywhere.
type cli struct {
	Dev     bool   `help:"Development: an embedded chain, test money, keys made for you. Never real money."`
	Network string `help:"Network to use: base-sepolia, base, arbitrum, optimism …" placeholder:"NAME"`
	Key     string `help:"Key file; default key.json in farthing's folder." placeholder:"FILE"`
	JSON    bool   `name:"json" help:"Print JSON lines, also on a terminal."`
	Yes     bool   `help:"Do not ask."`
	DryRun  bool   `help:"Show what would be signed or sent, and do nothing."`
	Verbose bool   `short:"v" help:"Log what happens inside."`

	Demo demoCmd `cmd:"" group:"Try" help:"Buyers, sellers, a clearing house and a chain, in one terminal."`

	Init    initCmd    `cmd:"" group:"Sell" help:"Write a gate.yaml to begin with."`
	Gate    gateCmd    `cmd:"" group:"Sell" help:"Charge for requests to any HTTP server, as a reverse proxy before it."`
	Price   priceCmd   `cmd:"" group:"Sell" help:"Say what is left of a price, for each way to sell, and what others would take."`
	Collect collectCmd `cmd:"" group:"Sell" help:"Bring in what is owed to you."`
	Refund  refundCmd  `cmd:"" group:"Sell" help:"Give back what a purchase was charged."`
	Charge  chargeCmd  `cmd:"" group:"More" help:"Charge a job that was answered 202, or let it go."`

	Get      getCmd      `cmd:"" group:"Buy" help:"Request a URL, paying if it asks for it, within a limit."`
	Pay      payCmd      `cmd:"" group:"Buy" help:"Pay an address, outside any request."`
	Balance  balanceCmd  `cmd:"" group:"Buy" help:"Show collateral, what of it is in use, and the wallet."`
	Deposit  depositCmd  `cmd:"" group:"Buy" help:"Put collateral into the vault."`
	Withdraw withdrawCmd `cmd:"" group:"Buy" help:"Take collateral out of the vault: request, wait, finish."`

	Serve  serveCmd  `cmd:"" group:"Run" help:"Run a clearing house."`
	Deploy deployCmd `cmd:"" group:"Run" help:"Put the contracts on a chain."`
	Member memberCmd `cmd:"" group:"Run" help:"Admit, suspend and remove those whom a clearing house serves."`
	Backup backupCmd `cmd:"" group:"Run" help:"Copy a book in a file while it is in use."`

	KeyVerb    keyCmd    `cmd:"" name:"key" group:"Keys" help:"Make, import and show keys."`
	SignerVerb signerCmd `cmd:"" name:"signer" group:"Keys" help:"Name who may sign for an address that is paid, and remove them."`

	Facilitator facilitatorCmd `cmd:"" group:"Below" help:"Verify and settle payments for sellers, and pay their gas."`

	Settle   settleCmd   `cmd:"" group:"More" help:"Pay what a closed cycle says you owe, so that your collateral comes back."`
	Webhook  webhookCmd  `cmd:"" group:"More" help:"Be told of what happens to your wallet: endpoints, deliveries, a listener."`
	Cycle    cycleCmd    `cmd:"" group:"More" help:"Show the cycles of a clearing house and where they stand."`
	Devchain devchainCmd `cmd:"" group:"More" help:"Run the development chain alone."`
	Bench    benchCmd    `cmd:"" group:"More" help:"Measure, comparing two ways of doing the same in one run."`
	Explain  explainCmd  `cmd:"" group:"More" help:"Say what an error code means: cause, effect on money, remedy."`
	Version  versionCmd  `cmd:"" group:"More" help:"Print version and build."`
}

// run is one execution of a verb: the process, the flags, and the context that Ctrl-C ends.
type run struct {
	*program
	ctx context.Context
	cli *cli
	log *slog.Logger

	opened *evm.PrivateKey // the key of --key, once its passphrase was given
}

// Main parses args, runs the verb and returns the exit code.
func (p *program) Main(ctx context.Context, args []string) int {
	var c cli
	code := -1
	parser, err := kong.New(&c,
		kong.Name("farthing"),
		kong.Description("Charge a fraction of a cent for an HTTP request, and keep it."),
		kong.Writers(p.Out, p.Err),
		kong.Exit(func(n int) { code = n; panic(exited{}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Help(help),
		kong.Bind(p),
	)
	if err != nil {
		return p.report(err, false)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, code := parse(parser, args, &code)
	if code >= 0 {
		return code
	}
	if kctx == nil {
		return p.report(misuse("%v", parseError(parser, args)).hint("farthing --help"), c.JSON)
	}
	level := slog.LevelWarn
	if c.Verbose {
		level = slog.LevelDebug
	}
	r := &run{program: p, ctx: ctx, cli: &c, log: slog.New(slog.NewTextHandler(p.Err, &slog.HandlerOptions{Level: level}))}
	if c.Dev && c.Network != "" && c.Network != "dev" {
		return p.report(misuse("--dev and --network %s exclude each other: --dev is the development chain", c.Network), c.JSON)
	}
	return p.report(r.repeatable(kctx.Run(r)), c.JSON)
}

type exited struct{}

// parse runs the parser; kong leaves through Exit for --help, which comes back here as a code.
func parse(parser *kong.Kong, args []string, code *int) (kctx *kong.Context, exit int) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(exited); !ok {
				panic(r)
			}
			kctx, exit = nil, *code
		}
	}()
	kctx, err := parser.Parse(args)
	if err != nil {
		return nil, -1
	}
	return kctx, -1
}

func parseError(parser *kong.Kong, args []string) error {
	_, err := parser.Parse(args)
	var pe *kong.ParseError
	if errors.As(err, &pe) {
		return errors.New(strings.TrimSpace(pe.Error()))
	}
	return err
}

// emit writes a verb's result: text on a terminal, one line of JSON in a pipe or when asked for.
func (r *run) emit(v any, format string, args ...any) error {
	if r.Terminal && !r.cli.JSON {
		_, err := fmt.Fprintf(r.Out, format, args...)
		return err
	}
	return json.NewEncoder(r.Out).Encode(v)
}

// say writes a line of the story, for a person, to the error stream.
func (r *run) say(format string, args ...any) { fmt.Fprintf(r.Err, format+"\n", args...) }

// help prints the verbs by person, and a verb's own page below it.
func help(options kong.HelpOptions, ctx *kong.Context) error {
	if ctx.Selected() != nil {
		return kong.DefaultHelpPrinter(options, ctx)
	}
	w := ctx.Stdout
	fmt.Fprint(w, "Usage: farthing VERB [flags]\n\nCharge a fraction of a cent for an HTTP request, and keep it.\n")
	for _, group := range []string{"Try", "Sell", "Buy", "Run", "Keys", "More"} {
		fmt.Fprintf(w, "\n%s\n", group)
		for _, n := range ctx.Model.Children {
			if n.Group != nil && n.Group.Key == group {
				fmt.Fprintf(w, "  %-10s %s\n", n.Name, n.Help)
			}
		}
	}
	_, err := io.WriteString(w, `
Everywhere
  --dev      development chain and test money    --json     JSON lines
  --key      key file                            --yes      do not ask
  --network  network to use                      --dry-run  sign and send nothing

Begin with
  farthing demo
  farthing gate --dev --upstream http://localhost:3000 --price '$0.0005'
  farthing get --dev --max '$0.01' http://localhost:4020/

farthing VERB --help tells the rest.
`)
	return err
}
