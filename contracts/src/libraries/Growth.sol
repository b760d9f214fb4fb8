// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @title How much more a vote earned later weighs: 2^(t / H)
/// @dev Fixed point, the same bits in Rust (docs/spec/14-ledger.md, section 2). Time is cut to 2^-24 of a half-life,
/// about a second, and one factor per bit of it is multiplied, each rounded down to 64 bits behind the point.
library Growth {
    /// @notice Time in which votes halve beside newer ones, in seconds.
    uint256 internal constant HALF_LIFE_S = 180 days;

    /// @notice Half-lives after which the factor stays as it is (63 years), so that no mint can ever overflow.
    uint256 internal constant HALF_LIVES_MAX = 128;

    uint256 private constant FRACTION_BITS = 24;
    uint256 private constant POINT_BITS = 64;

    /// @notice `weight` as votes of somebody who earned it `elapsed_s` after the origin. `weight` is below 2^128.
    function scale(uint256 weight, uint256 elapsed_s) internal pure returns (uint256) {
        uint256 time = (elapsed_s << FRACTION_BITS) / HALF_LIFE_S;
        uint256 whole = time >> FRACTION_BITS;
        if (whole >= HALF_LIVES_MAX) return weight << HALF_LIVES_MAX;
        return ((weight * factor(time)) >> POINT_BITS) << whole;
    }

    /// @notice Whole half-lives in `elapsed_s`, at most `HALF_LIVES_MAX`.
    function halfLives(uint256 elapsed_s) internal pure returns (uint256) {
        uint256 whole = elapsed_s / HALF_LIFE_S;
        return whole > HALF_LIVES_MAX ? HALF_LIVES_MAX : whole;
    }

    /// @dev 2^64 times 2 to the power of the lower 24 bits of `time`, read as a fraction. The n-th constant is
    /// 2^64 times 2^(2^-n), rounded to the nearest.
    function factor(uint256 time) private pure returns (uint256 product) {
        product = 1 << POINT_BITS;
        if (time & 0x800000 != 0) product = (product * 0x16a09e667f3bcc909) >> POINT_BITS;
        if (time & 0x400000 != 0) product = (product * 0x1306fe0a31b7152df) >> POINT_BITS;
        if (time & 0x200000 != 0) product = (product * 0x1172b83c7d517adce) >> POINT_BITS;
        if (time & 0x100000 != 0) product = (product * 0x10b5586cf9890f62a) >> POINT_BITS;
        if (time & 0x080000 != 0) product = (product * 0x1059b0d31585743ae) >> POINT_BITS;
        if (time & 0x040000 != 0) product = (product * 0x102c9a3e778060ee7) >> POINT_BITS;
        if (time & 0x020000 != 0) product = (product * 0x10163da9fb33356d8) >> POINT_BITS;
        if (time & 0x010000 != 0) product = (product * 0x100b1afa5abcbed61) >> POINT_BITS;
        if (time & 0x008000 != 0) product = (product * 0x10058c86da1c09ea2) >> POINT_BITS;
        if (time & 0x004000 != 0) product = (product * 0x1002c605e2e8cec50) >> POINT_BITS;
        if (time & 0x002000 != 0) product = (product * 0x100162f3904051fa1) >> POINT_BITS;
        if (time & 0x001000 != 0) product = (product * 0x1000b175effdc76ba) >> POINT_BITS;
        if (time & 0x000800 != 0) product = (product * 0x100058ba01fb9f96d) >> POINT_BITS;
        if (time & 0x000400 != 0) product = (product * 0x10002c5cc37da9492) >> POINT_BITS;
        if (time & 0x000200 != 0) product = (product * 0x1000162e525ee0547) >> POINT_BITS;
        if (time & 0x000100 != 0) product = (product * 0x10000b17255775c04) >> POINT_BITS;
        if (time & 0x000080 != 0) product = (product * 0x1000058b91b5bc9ae) >> POINT_BITS;
        if (time & 0x000040 != 0) product = (product * 0x100002c5c89d5ec6d) >> POINT_BITS;
        if (time & 0x000020 != 0) product = (product * 0x10000162e43f4f831) >> POINT_BITS;
        if (time & 0x000010 != 0) product = (product * 0x100000b1721bcfc9a) >> POINT_BITS;
        if (time & 0x000008 != 0) product = (product * 0x10000058b90cf1e6e) >> POINT_BITS;
        if (time & 0x000004 != 0) product = (product * 0x1000002c5c863b73f) >> POINT_BITS;
        if (time & 0x000002 != 0) product = (product * 0x100000162e430e5a2) >> POINT_BITS;
        if (time & 0x000001 != 0) product = (product * 0x1000000b172183551) >> POINT_BITS;
    }
}
