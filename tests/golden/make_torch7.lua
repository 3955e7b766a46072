-- Writes golden/torch7/*.t7 with Torch7 itself (torch/torch7 and torch/nn): `luajit make_torch7.lua`, in this folder.
-- A network whose layers have the fields that old files have, saved after use; what it answers; arrays of all types.
require 'torch'
require 'nn'
torch.manualSeed(3)
torch.setdefaulttensortype('torch.FloatTensor')

local convolution = nn.SpatialConvolutionMM(2, 3, 3, 2, 1, 1, 1)
local norm = nn.SpatialBatchNormalization(3)
norm.weight:uniform(0.5, 1.5)
norm.bias:normal()
norm.running_mean:normal()
norm.running_var:uniform(0.5, 2)
local branches = nn.ConcatTable():add(nn.LogSoftMax()):add(nn.Identity())
local network = nn.Sequential():add(convolution):add(norm):add(nn.ReLU()):add(nn.SpatialAveragePooling(2, 2, 2, 2))
network:add(nn.View(-1):setNumInputDims(3)):add(nn.Linear(18, 2)):add(nn.Dropout(0.3)):add(branches)
network:getParameters() -- one storage for all
network:evaluate()

local x = torch.rand(2, 2, 5, 4)
torch.save('torch7/run.t7', {x = x, y = network:forward(x)[1]:clone()})

convolution.padding, convolution.padW, convolution.padH = 1, nil, nil
norm.running_std = norm.running_var:clone():add(norm.eps):pow(-0.5)
norm.running_var = nil
local all = {epoch = 7, model = network, criterion = nn.ClassNLLCriterion(), optimState = {t = 5, m = torch.rand(3)}}
all.init = function() return x end
all.itself = all
torch.save('torch7/network.t7', all)
torch.save('torch7/network_ascii.t7', all, 'ascii')
torch.save('torch7/unreferenced.t7', network, 'binary', false)
local file = torch.DiskFile('torch7/network_long4.t7', 'w'):binary():longSize(4)
file:writeObject(all)
file:close()

local arrays = {empty = torch.FloatTensor(), special = torch.DoubleTensor{1 / 0, -1 / 0, 0 / 0, 1e-310}}
arrays.whole = torch.range(1, 12):view(3, 4)
arrays.turned = arrays.whole:t()
arrays.part = arrays.whole:narrow(2, 2, 2)
for _, word in ipairs{'Byte', 'Char', 'Short', 'Int', 'Long', 'Half', 'Float', 'Double'} do
   arrays[word] = torch[word .. 'Tensor']{1, 2, -3, 100}
end
torch.save('torch7/arrays.t7', {inner = arrays})
torch.save('torch7/arrays_ascii.t7', {inner = arrays}, 'ascii')
