// 31-bit Fibonacci LFSR, x^31 + x^28 + 1 (maximal length), advanced by 31 bits at once: pivot places for hardware.
`default_nettype none

module lfsr #(
    parameter SEED = 31'h2545F491
) (
    input  wire        clk,
    input  wire        reset,
    input  wire        draw,
    output reg  [30:0] random
);
    function [30:0] advanced(input [30:0] from);
        integer step;
        begin
            advanced = from;
            for (step = 0; step < 31; step = step + 1)
                advanced = {advanced[29:0], advanced[30] ^ advanced[27]};
        end
    endfunction

    always @(posedge clk)
        if (reset) random <= SEED;
        else if (draw) random <= advanced(random);
endmodule

`default_nettype wire
