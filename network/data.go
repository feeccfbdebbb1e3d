package network

import (
	"time"

	"github.com/farthing402/farthing/evm"
)

// usdc makes an entry of Circle's dollar, or of one with the same methods.
func usdc(address, name string) Token {
	return Token{Symbol: "USDC", Address: evm.MustAddress(address), Decimals: 6, Name: name, Version: "2", EIP3009: true, EIP2612: true, Dollar: true}
}

// dollar makes an entry of another dollar of 6 decimals with EIP-3009, whose permit was not looked at.
func dollar(symbol, address, name, version string) Token {
	return Token{Symbol: symbol, Address: evm.MustAddress(address), Decimals: 6, Name: name, Version: version, EIP3009: true, Dollar: true}
}

const second = time.Second

// shipped is what the program knows without a file. Addresses and domains are those of x402's packages where they have
// the chain, otherwise of the token's issuer; all are compared with the chain before money moves. The chains that people
// are told about first come first.
var shipped = []Chain{
	{ID: 31337, Name: "dev", Also: []string{"devchain"}, Native: "ETH", Test: true, BlockTime: second, Depth: 1,
		Tokens: []Token{
			usdc("0xFA12000000000000000000000000000000000001", "Test Dollar"),
			// As poor in methods as USDT on ethereum.
			{Symbol: "USDT", Address: evm.MustAddress("0xFA12000000000000000000000000000000000002"), Decimals: 6, Dollar: true},
		}},
	{ID: 8453, Name: "base", V1Name: "base", V1First: true, Native: "ETH", BlockTime: 2 * second, Depth: 20,
		Tokens: []Token{usdc("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin")}},
	{ID: 84532, Name: "base-sepolia", V1Name: "base-sepolia", V1First: true, Native: "ETH", Test: true, BlockTime: 2 * second, Depth: 5,
		Tokens: []Token{usdc("0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC")}},
	{ID: 42161, Name: "arbitrum", Also: []string{"arbitrum-one"}, Native: "ETH", BlockTime: second / 4, Depth: 60,
		Tokens: []Token{usdc("0xaf88d065e77c8cC2239327C5EDb3A432268e5831", "USD Coin")}},
	{ID: 421614, Name: "arbitrum-sepolia", Native: "ETH", Test: true, BlockTime: second / 4, Depth: 20,
		Tokens: []Token{usdc("0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d", "USD Coin")}},
	{ID: 10, Name: "optimism", Also: []string{"op-mainnet"}, Native: "ETH", BlockTime: 2 * second, Depth: 20,
		Tokens: []Token{usdc("0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85", "USD Coin")}},
	{ID: 11155420, Name: "optimism-sepolia", Also: []string{"op-sepolia"}, Native: "ETH", Test: true, BlockTime: 2 * second, Depth: 5,
		Tokens: []Token{usdc("0x5fd84259d66Cd46123540766Be93DFE6D43130D7", "USDC")}},
	{ID: 1, Name: "ethereum", V1Name: "ethereum", Also: []string{"mainnet"}, Native: "ETH", BlockTime: 12 * second, Depth: 12,
		Tokens: []Token{
			usdc("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "USD Coin"),
			// Neither signature method, and its approve returns nothing and refuses to change one allowance into another.
			{Symbol: "USDT", Address: evm.MustAddress("0xdAC17F958D2ee523a2206206994597C13D831ec7"), Decimals: 6, Dollar: true},
		}},
	{ID: 11155111, Name: "sepolia", V1Name: "sepolia", Also: []string{"ethereum-sepolia"}, Native: "ETH", Test: true, BlockTime: 12 * second, Depth: 5,
		Tokens: []Token{usdc("0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238", "USDC")}},
	{ID: 137, Name: "polygon", V1Name: "polygon", V1First: true, Native: "POL", BlockTime: 2 * second, Depth: 30,
		Tokens: []Token{usdc("0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", "USD Coin")}},
	{ID: 80002, Name: "polygon-amoy", V1Name: "polygon-amoy", V1First: true, Native: "POL", Test: true, BlockTime: 2 * second, Depth: 10,
		Tokens: []Token{usdc("0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582", "USDC")}},
	{ID: 43114, Name: "avalanche", V1Name: "avalanche", V1First: true, Native: "AVAX", BlockTime: 2 * second, Depth: 5,
		Tokens: []Token{usdc("0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E", "USD Coin")}},
	{ID: 43113, Name: "avalanche-fuji", V1Name: "avalanche-fuji", V1First: true, Native: "AVAX", Test: true, BlockTime: 2 * second, Depth: 5,
		Tokens: []Token{usdc("0x5425890298aed601595a70AB815c96711a31Bc65", "USD Coin")}},
	{ID: 42220, Name: "celo", V1Name: "celo", Native: "CELO", Depth: 20, Tokens: []Token{
		dollar("USDC", "0xcebA9300f2b948710d2653dD7B07f33A8B32118C", "USDC", "2"),
		dollar("USDT", "0x48065fbBE25f71C9282ddf5e1cD6D6A887483D5e", "Tether USD", "1"),
		dollar("USAT", "0xD2ab3C9A02DBBAB236BfEC45D1d755DF4267F771", "Tether America USD", "1"),
	}},
	{ID: 143, Name: "monad", V1Name: "monad", Native: "MON", Depth: 20,
		Tokens: []Token{dollar("USDC", "0x754704Bc059F8C67012fEd69BC8A327a5aafb603", "USDC", "2")}},
	{ID: 1329, Name: "sei", V1Name: "sei", V1First: true, Native: "SEI", Depth: 20,
		Tokens: []Token{dollar("USDC", "0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392", "USDC", "2")}},
	{ID: 1328, Name: "sei-testnet", V1Name: "sei-testnet", V1First: true, Native: "SEI", Test: true, Depth: 20,
		Tokens: []Token{dollar("USDC", "0x4fCF1784B31630811181f670Aea7A7bEF803eaED", "USDC", "2")}},
	{ID: 988, Name: "stable", V1Name: "stable", Depth: 20,
		Tokens: []Token{dollar("USDT0", "0x779Ded0c9e1022225f8E0630b35a9b54bE713736", "USDT0", "1")}},
	{ID: 2201, Name: "stable-testnet", V1Name: "stable-testnet", Test: true, Depth: 20,
		Tokens: []Token{dollar("USDT0", "0x78Cf24370174180738C5B8E352B6D14c83a6c9A9", "USDT0", "1")}},
	{ID: 14, Name: "flare", V1Name: "flare", Native: "FLR", Depth: 20,
		Tokens: []Token{dollar("USDT0", "0xe7cd86e13AC4309349F30B3435a9d337750fC82D", "USD₮0", "1")}},
	{ID: 4326, Name: "megaeth", V1Name: "megaeth", Native: "ETH", Depth: 20, Tokens: []Token{{
		Symbol: "MegaUSD", Address: evm.MustAddress("0xFAfDdbb3FC7688494971a79cc65DCa3EF82079E7"), Decimals: 18,
		Name: "MegaUSD", Version: "1", EIP2612: true, Dollar: true,
	}}},
	{ID: 31612, Name: "mezo", Native: "BTC", Depth: 20, Tokens: []Token{{
		Symbol: "mUSD", Address: evm.MustAddress("0xdD468A1DDc392dcdbEf6db6e34E89AA338F9F186"), Decimals: 18,
		Name: "Mezo USD", Version: "1", EIP2612: true, Dollar: true,
	}}},
	{ID: 38833, Name: "igra", Depth: 20, Tokens: []Token{
		{Symbol: "USDC", Address: evm.MustAddress("0xA5b8BF902b2844dA17d4506cc827F7F1681735E7"), Decimals: 6, Dollar: true},
	}},
	{ID: 50, Name: "xdc", Native: "XDC", Depth: 20,
		Tokens: []Token{dollar("USDC", "0xfA2958CB79b0491CC627c1557F441eF849Ca8eb1", "USDC", "2")}},
	{ID: 36900, Name: "adi", Native: "ADI", Depth: 20,
		Tokens: []Token{dollar("USDC.e", "0x9cb8142aEBBcdc60AF7c97Af897A67A8f3CA71C2", "USDC.e", "2")}},

	// Only their version-1 names are known; networks.yaml can add tokens.
	{ID: 4689, Name: "iotex", V1Name: "iotex", V1First: true, Native: "IOTX", Depth: 20},
	{ID: 2741, Name: "abstract", V1Name: "abstract", V1First: true, Native: "ETH", Depth: 20},
	{ID: 11124, Name: "abstract-testnet", V1Name: "abstract-testnet", V1First: true, Native: "ETH", Test: true, Depth: 20},
	{ID: 3338, Name: "peaq", V1Name: "peaq", V1First: true, Native: "PEAQ", Depth: 20},
	{ID: 1514, Name: "story", V1Name: "story", V1First: true, Native: "IP", Depth: 20},
	{ID: 41923, Name: "educhain", V1Name: "educhain", V1First: true, Native: "EDU", Depth: 20},
	{ID: 324705682, Name: "skale-base-sepolia", V1Name: "skale-base-sepolia", V1First: true, Test: true, Depth: 20},
}

// elsewhere are the version-1 names of networks that are not EVM chains: farthing does not pay there, but reads terms
// that mention them.
var elsewhere = map[string]string{
	"solana":         "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
	"solana-devnet":  "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
	"solana-testnet": "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z",
}
