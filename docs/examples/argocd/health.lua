-- Argo CD's health of a DeterministicInference: resource.customizations.health.detinf.io_DeterministicInference
local hs = {status = "Progressing", message = "Waiting for the controller"}
if obj.metadata.deletionTimestamp ~= nil then
  hs.message = "Being deleted"
  return hs
end
if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return hs
end
local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end
local ready = conditions.Ready
if ready == nil then
  return hs
end
hs.message = ready.reason .. ": " .. ready.message
for _, kind in ipairs({"Stalled", "Degraded"}) do
  if conditions[kind] ~= nil and conditions[kind].status == "True" then
    hs.status = "Degraded"
    hs.message = conditions[kind].reason .. ": " .. conditions[kind].message
    return hs
  end
end
if ready.status == "True" and (conditions.Reconciling == nil or conditions.Reconciling.status ~= "True") then
  hs.status = "Healthy"
elseif ready.reason == "ScaledToZero" then
  hs.status = "Suspended"
end
return hs
