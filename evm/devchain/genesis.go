package devchain

import (
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/params"

	"github.com/farthing402/farthing/evm"
)

// GasLimit is the gas of one block. It is far above what a machine executes in the half second that building a block
// may take, because the base fee climbs only after blocks that are more than half full.
const GasLimit = 10_000_000_000

// baseFee is where the base fee starts: the largest that an empty block leaves alone, as it falls by an eighth, rounded
// down. From there it would take 149 blocks in a row, each more than half full, to reach 0.1 gwei.
const baseFee = 7

// Ether is the balance that each of [Accounts] starts with, in ether.
const Ether = 1_000_000

func newGenesis(c Config) *core.Genesis {
	zero := func() *uint64 { return new(uint64) }
	config := &params.ChainConfig{
		ChainID:                 new(big.Int).SetUint64(c.ChainID),
		HomesteadBlock:          new(big.Int),
		EIP150Block:             new(big.Int),
		EIP155Block:             new(big.Int),
		EIP158Block:             new(big.Int),
		ByzantiumBlock:          new(big.Int),
		ConstantinopleBlock:     new(big.Int),
		PetersburgBlock:         new(big.Int),
		IstanbulBlock:           new(big.Int),
		MuirGlacierBlock:        new(big.Int),
		BerlinBlock:             new(big.Int),
		LondonBlock:             new(big.Int),
		ArrowGlacierBlock:       new(big.Int),
		GrayGlacierBlock:        new(big.Int),
		TerminalTotalDifficulty: new(big.Int),
		ShanghaiTime:            zero(),
		CancunTime:              zero(),
		PragueTime:              zero(),
		OsakaTime:               zero(),
		BlobScheduleConfig: &params.BlobScheduleConfig{
			Cancun: params.DefaultCancunBlobConfig,
			Prague: params.DefaultPragueBlobConfig,
		},
	}
	alloc := core.SystemContractAllocs()
	tokens := c.Tokens
	if tokens == nil {
		tokens, _ = Registered(c.ChainID) // an unknown id has none
	}
	for _, p := range everything(tokens) {
		alloc[common.Address(p.address)] = p.account()
	}
	wealth := new(big.Int).Mul(big.NewInt(Ether), big.NewInt(params.Ether))
	for _, key := range Accounts() {
		alloc[common.Address(key.Address())] = types.Account{Balance: wealth}
	}
	return &core.Genesis{
		Config:     config,
		Timestamp:  uint64(c.Genesis.Unix()),
		GasLimit:   GasLimit,
		BaseFee:    big.NewInt(baseFee),
		Difficulty: new(big.Int),
		Alloc:      alloc,
	}
}

// Accounts returns the keys of the ten funded accounts, in the order of the standard test mnemonic "test test test test
// test test test test test test test junk". Everyone knows them: use them on development chains only.
func Accounts() []*evm.PrivateKey {
	keys := make([]*evm.PrivateKey, len(accountSecrets))
	for i, secret := range accountSecrets {
		key, err := evm.NewKey(common.FromHex(secret))
		if err != nil {
			panic(err) // the constants are keys
		}
		keys[i] = key
	}
	return keys
}

// accountSecrets are m/44'/60'/0'/0/i of the mnemonic, which development tools print at every start.
var accountSecrets = [...]string{
	"ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
	"59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
	"5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
	"7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
	"47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
	"8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
	"92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
	"4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
	"dbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
	"2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
}
